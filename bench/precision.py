"""What bfloat16 features change of the superpixels and of T: python -m bench.precision MODEL IMAGES...

For each image, chi in float32 against chi rounded to bfloat16, and, as a yardstick, against chi of the model under
autocast, whose superpixels are float32. Prints a table: the share of positions whose label changes, the float32 margin
between the two most probable regions there, the change of T, and the share of keys that the rule T <= lambda_T decides
otherwise at the decoder's levels.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import tmt_ext
from tmt.data.files import read_image
from tmt.data.transforms import normalise
from tmt.model.acte import stride8, transferability_map
from tmt.model.factory import load_estimator
from tmt.model.loading import load_model
from tmt.model.tma import level_transferability
from tmt.model.tmt import TMTForSemanticSegmentation

LEVELS = (8, 16, 32)  # strides at which the decoder attends
VARIANTS = ("bfloat16 chi", "autocast")


class Judged(NamedTuple):
    """One image's superpixels and T; positions are those of stride 8."""

    labels: Tensor  # (H, W)
    margin: Tensor  # (H, W) between the two most probable regions
    transferability: Tensor  # (H, W)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.precision", description=__doc__)
    parser.add_argument("model", help="folder of a saved model")
    parser.add_argument("images", nargs="+", type=Path, help="images, or folders that are searched to their bottom")
    parser.add_argument("--estimator", help="weights of the discriminator; without, those in the model")
    parser.add_argument("--most", type=int, default=100, help="so many images at most")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    given = parser.parse_args(arguments)
    model = load_model(given.model).eval()
    if given.estimator:
        load_estimator(model, given.estimator)
    figures = measure(model, found(given.images)[: given.most])
    print(table(figures))
    if given.out:
        given.out.write_text(json.dumps(figures, indent=1) + "\n")


def found(paths: Iterable[Path]) -> list[Path]:
    return [file for path in paths for file in (sorted(path.rglob("*.png")) if path.is_dir() else [path])]


@torch.no_grad()
def measure(model: TMTForSemanticSegmentation, images: Sequence[Path]) -> dict[str, dict[str, float]]:
    """{variant: {figure: value}} over all positions of all images."""
    changes = {variant: [] for variant in VARIANTS}
    for path in images:
        pixels = normalised(model, path)
        chi, under_autocast = features(model, pixels, False), features(model, pixels, True)
        plain = judge(model, chi)
        for variant, other in zip(VARIANTS, (chi.bfloat16(), under_autocast), strict=True):
            changes[variant].append(compare(plain, judge(model, other), pixels.shape[-2:], model.config))
    return {variant: summary(parts) for variant, parts in changes.items()}


def normalised(model: TMTForSemanticSegmentation, path: Path) -> Tensor:
    """(1, C, H, W)."""
    return normalise(read_image(path), model.scaling)[None]


def features(model: TMTForSemanticSegmentation, pixels: Tensor, autocast: bool) -> Tensor:
    """chi (1, C, H / 8, W / 8) in float32."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        mask_features = model.model.pixel_level_module(pixels).decoder_last_hidden_state
    return stride8(mask_features.float())


def judge(model: TMTForSemanticSegmentation, chi: Tensor) -> Judged:
    config = model.config
    found = tmt_ext.superpixel(chi, config.cell, iterations=config.superpixel_iterations, kappa=config.kappa)
    best = found.assignment[0].float().topk(2, dim=0).values
    transferability = transferability_map(model.estimator(found.region_features.float()), found.labels)
    return Judged(found.labels[0], best[0] - best[1], transferability[0])


def compare(plain: Judged, other: Judged, size: Sequence[int], config) -> dict[str, Tensor]:
    """What differs at each position; `flips {stride}`: at each key of a level."""
    moved = plain.labels != other.labels
    change = (plain.transferability - other.transferability).abs()
    differs = {"moved": moved, "margin": plain.margin[moved], "change": change, "narrow": plain.margin < 0.01}
    for stride in LEVELS:
        level = (-(-size[0] // stride), -(-size[1] // stride))
        passes = [passing(judged.transferability, level, config.transfer_fraction) for judged in (plain, other)]
        differs[f"flips {stride}"] = passes[0] != passes[1]
    return {name: values.flatten() for name, values in differs.items()}


def passing(transferability: Tensor, size: tuple[int, int], fraction: float) -> Tensor:
    level = level_transferability(transferability[None], size, fraction)
    return level.values <= level.threshold[:, None]


def summary(parts: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    whole = {name: torch.cat([part[name] for part in parts]).float() for name in parts[0]}
    margin = whole["margin"] if len(whole["margin"]) else torch.zeros(1)
    figures = {
        "positions": len(whole["moved"]),
        "labels changed": whole["moved"].mean(),
        "margin < 0.01": whole["narrow"].mean(),
        "margin where changed, median": margin.median(),
        "margin where changed, largest": margin.max(),
        "T's change, mean": whole["change"].mean(),
        "T's change, 99.9 %": whole["change"].quantile(0.999),
        "T's change, largest": whole["change"].max(),
    }
    figures |= {f"keys decided otherwise, stride {stride}": whole[f"flips {stride}"].mean() for stride in LEVELS}
    return {name: float(value) for name, value in figures.items()}


def table(figures: dict[str, dict[str, float]]) -> str:
    lines = [f"| | {' | '.join(figures)} |", f"|---{'|--:' * len(figures)}|"]
    names = next(iter(figures.values()))
    return "\n".join([*lines, *(f"| {n} | {' | '.join(f'{v[n]:.6g}' for v in figures.values())} |" for n in names)])


if __name__ == "__main__":
    main()
