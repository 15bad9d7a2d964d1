"""Evaluate a saved segmentation model.

python -m tmt.evaluate runs/demo/tmt/model --dataset cityscapes --root data/cityscapes --out results --pictures 4
python -m tmt.evaluate MODEL --dataset mapillary --root MAPILLARY --window 1024,1024 --scales 0.75,1.0,1.25 --flip
torchrun --nproc_per_node 2 -m tmt.evaluate ...      the same on two processes, every image counted once
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse.typing import NonNegativeInt

from tmt.arguments import parse_model_command
from tmt.config import DatasetName, Device, InferenceConfig, MapillaryMapping, MapillaryVersion, check_mapillary
from tmt.engine.cli import command

if TYPE_CHECKING:
    from torch import nn

    from tmt.data import Dataset
    from tmt.engine.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(InferenceConfig):
    """Evaluate a saved model: every mIoU in use, fwIoU, mACC, pACC and all classes, at the labels' resolution."""

    model: str
    """Folder of a saved model."""
    dataset: DatasetName
    """Layout and label encoding of the dataset; `folders` is one of your own."""
    root: str
    """Folder of the dataset."""
    split: str = "val"
    """Split of the dataset, such as train, val or test."""
    mapillary_mapping: MapillaryMapping = "strict"
    """Mapillary labels that count as a Cityscapes class: `strict`, those of one meaning; `broad`, near ones too."""
    mapillary_version: MapillaryVersion | None = None
    """Release of the Mapillary labels, v1.2 or v2.0; none: the newest that is there."""
    out: str | None = None
    """Folder for metrics.json, scores.md and pictures; none: only print."""
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
    """Evaluate, print the tables, and write files where `out` is given. Raises tmt.errors.TMTError."""
    from tmt.engine import evaluation
    from tmt.engine.checks import check_writable
    from tmt.engine.distributed import join
    from tmt.engine.models import freeze, open_model, transfer_switch

    with join(config.device) as world:
        if config.out:
            check_writable(Path(config.out))
        dataset = _open_dataset(config)
        model = open_model(config.model, transfer_switch(config.transferability), dataset.label_set).to(world.device)
        freeze(model)
        result = evaluation.evaluate(model, dataset, world, config)
        uses = "with" if model.config.transferability and model.config.transfer_at_inference else "without"
        rule = f"mask rule {model.config.mask_rule}, {uses} transferability"
        report = f"{result.tables()}\n\n{len(dataset)} images, {rule}"
        world.say(f"{report}\n{result.headline()}")
        if config.out and world.main:
            _write(config, result, report)
            _draw(config, model, dataset)


def _open_dataset(config: EvaluateConfig) -> "Dataset":
    from tmt.data import open_dataset

    mapping, version = config.mapillary_mapping, config.mapillary_version
    check_mapillary((config.dataset,), mapping, version)
    return open_dataset(config.dataset, config.root, config.split, mapping=mapping, version=version)


def _write(config: EvaluateConfig, result: "Evaluation", report: str) -> None:
    from dataclasses import asdict

    from tmt.engine.checkpoint import write_text
    from tmt.engine.record import write_json

    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", {"evaluated": asdict(config), **result.to_dict()})
    write_text(folder / "scores.md", report + "\n")


def _draw(config: EvaluateConfig, model: "nn.Module", dataset: "Dataset") -> None:
    from tmt.report import pictures

    for index in pictures.spread(config.pictures, len(dataset)):
        sample = dataset[index]
        views = {f"prediction ({model.config.mask_rule} rule)": pictures.look(model, sample.image, config)}
        panels = pictures.panels_of(sample.image, sample.label, views, dataset.label_set)
        sheet = pictures.compose(panels, columns=3, label_set=dataset.label_set)
        pictures.save(sheet, Path(config.out) / "pictures" / f"{sample.name}.png")


if __name__ == "__main__":
    sys.exit(main())
