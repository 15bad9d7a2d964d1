"""Evaluate a saved segmentation model.

python -m tmt.evaluate runs/demo/tmt/model --dataset cityscapes --root data/cityscapes --out results --pictures 4
python -m tmt.evaluate MODEL --dataset mapillary --root MAPILLARY --window 1024,1024 --scales 0.75,1.0,1.25 --flip
torchrun --nproc_per_node 2 -m tmt.evaluate ...      the same on two processes, every image counted once
"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from tmt.cli.command import command
from tmt.settings import EvaluateConfig, check_mapillary
from tmt.settings.arguments import parse_command

SMALLER = "segment the images in parts (--window 512,1024, or smaller), or at smaller --scales"
"""What lowers the memory that segmenting takes."""

if TYPE_CHECKING:
    from tmt.data import Dataset
    from tmt.inference.evaluation import Evaluation
    from tmt.model import TMTForSemanticSegmentation


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0 done, 2 a mistake named on one line, 128 + n stopped by signal n."""
    return command(
        lambda given: evaluate(parse_command("python -m tmt.evaluate", given, EvaluateConfig)), argv, SMALLER
    )


def evaluate(config: EvaluateConfig) -> None:
    """Evaluate, print the tables, and write files where `out` is given. Raises tmt.errors.TMTError."""
    from tmt.data.datasets import in_order
    from tmt.inference import evaluation
    from tmt.model.factory import check_classes, freeze, label_set_of, open_named, transfer_switch
    from tmt.runtime.distributed import join

    with join(config.device) as world, world.only_one(Path(config.out)) if config.out else nullcontext():
        dataset = _open_dataset(config)
        model = open_named(config.model, transfer_switch(config.transferability)).to(world.device)
        dataset = in_order(dataset, label_set_of(model))
        check_classes(config.model, model, dataset.label_set)
        freeze(model)
        result = evaluation.evaluate(model, dataset, world, config)
        uses = "with" if model.config.settings.infers_with_transferability else "without"
        rule = f"mask rule {model.config.settings.mask_rule}, {uses} transferability"
        report = f"{result.tables()}\n\n{len(dataset)} images, {rule}"
        world.say(f"{report}\n{result.headline()}")
        if config.out and world.main:
            _write(Path(config.out), config, result, report)
            _draw(Path(config.out), config, model, dataset)


def _open_dataset(config: EvaluateConfig) -> "Dataset":
    from tmt.data.spec import DatasetSpec

    mapping, version = config.mapillary_mapping, config.mapillary_version
    check_mapillary((config.dataset,), mapping, version)
    images = {config.split: config.images}
    return DatasetSpec(config.dataset, config.root, mapping, version, config.classes, images).open(config.split)


def _write(folder: Path, config: EvaluateConfig, result: "Evaluation", report: str) -> None:
    from dataclasses import asdict

    from tmt.runtime.files import write_json, write_text

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", {"evaluated": asdict(config), **result.to_dict()})
    write_text(folder / "scores.md", report + "\n")


def _draw(folder: Path, config: EvaluateConfig, model: "TMTForSemanticSegmentation", dataset: "Dataset") -> None:
    from tmt.inference.look import look
    from tmt.visualize import panels

    for index in panels.spread(config.pictures, len(dataset)):
        sample = dataset[index]
        views = {f"prediction ({model.config.settings.mask_rule} rule)": look(model, sample.image, config)}
        drawn = panels.panels_of(sample.image, sample.label, views, dataset.label_set)
        sheet = panels.compose(drawn, columns=3, label_set=dataset.label_set)
        panels.save(sheet, folder / "pictures" / f"{sample.name}.png")
