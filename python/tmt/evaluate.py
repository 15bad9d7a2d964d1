"""Evaluate a saved segmentation model.

python -m tmt.evaluate runs/demo/tmt/model --dataset cityscapes --root data/cityscapes --out results --pictures 4
torchrun --nproc_per_node 2 -m tmt.evaluate ...      the same on two processes, every image counted once
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse.typing import NonNegativeInt

from tmt.config import DatasetName, Device, parse_model_command
from tmt.engine.cli import command

if TYPE_CHECKING:
    from torch import nn

    from tmt.data import Dataset


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a saved model: mIoU, fwIoU, mACC, pACC and all classes, at the labels' resolution."""

    model: str
    """Folder of a saved model."""
    dataset: DatasetName
    """Layout and label encoding of the dataset."""
    root: str
    """Folder of the dataset."""
    split: str = "val"
    """Split of the dataset: train, val or test."""
    out: str | None = None
    """Folder for metrics.json, classes.md and pictures; none: only print."""
    pictures: NonNegativeInt = 0
    """Images to draw, with prediction, transferability and superpixel borders."""
    transferability: bool | None = None
    """Switches the transferability off or on in inference; none: as the model was saved."""
    device: Device = "auto"
    """Where to compute; auto: CUDA when there is a GPU, else the CPU."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0 done, 2 a mistake named on one line, 128 + n stopped by signal n."""
    return command(lambda arguments: evaluate(parse_model_command("evaluate", arguments, EvaluateConfig)), argv)


def evaluate(config: EvaluateConfig) -> None:
    """Evaluate, print the table, and write files where `out` is given. Raises tmt.errors.TMTError."""
    from tmt import metrics
    from tmt.data import CLASSES, open_dataset
    from tmt.engine import evaluation
    from tmt.engine.checks import check_writable
    from tmt.engine.distributed import join
    from tmt.engine.models import freeze, open_model

    options = {} if config.transferability is None else {"transferability": config.transferability}
    with join(config.device) as world:
        if config.out:
            check_writable(Path(config.out))
        dataset = open_dataset(config.dataset, config.root, config.split)
        model = open_model(config.model, options).to(world.device)
        freeze(model)
        result = evaluation.evaluate(model, dataset, world)
        world.say(metrics.class_table(result.scores, CLASSES))
        world.say(f"{len(dataset)} images, mask rule {model.config.mask_rule}\n{result.headline()}")
        if config.out and world.main:
            _write(config, result.to_dict(), metrics.class_table(result.scores, CLASSES))
            _draw(config, model, dataset)


def _write(config: EvaluateConfig, result: dict[str, object], table: str) -> None:
    from dataclasses import asdict

    from tmt.engine.checkpoint import write_text
    from tmt.engine.record import write_json

    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", {"evaluated": asdict(config), **result})
    write_text(folder / "classes.md", table + "\n")


def _draw(config: EvaluateConfig, model: "nn.Module", dataset: "Dataset") -> None:
    from tmt.report import pictures

    for index in pictures.spread(config.pictures, len(dataset)):
        sample = dataset[index]
        views = {f"prediction ({model.config.mask_rule} rule)": pictures.look(model, sample.image)}
        sheet = pictures.compose(pictures.panels_of(sample.image, sample.label, views), columns=3)
        pictures.save(sheet, Path(config.out) / "pictures" / f"{sample.name}.png")


if __name__ == "__main__":
    sys.exit(main())
