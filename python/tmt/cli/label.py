"""Choose what a person labels next: the superpixels of images that a score puts first, within a budget.

    python -m tmt.label runs/mine/source/model mine/night/images/train --budget 2.2% --out picks
    python -m tmt.label MODEL IMAGES --budget 500 --score divergence --estimator ESTIMATOR.safetensors --out picks
    python -m tmt.label MODEL IDD_LITE --dataset folders --budget 2.2% --score ripu --reveal --out simulated
    torchrun --nproc_per_node 2 -m tmt.label ...      the images divided among two processes

Written into --out: `masks`, per image a PNG that is 0 where to label and 255 elsewhere; `overlays`, the same over the
image; `picks.json`, COCO polygons with the predicted class as a proposal; `picks.csv`, the regions, best first;
`index.html`, a page to look through; and `scores`, so that another --score or --budget does not run the model again.
With --reveal also `dataset`, the picked images with the labels that their dataset has there. The same command goes on
where it was stopped.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tmt.cli.command import command
from tmt.cli.evaluate import SMALLER
from tmt.errors import ConfigError
from tmt.settings import LabelConfig
from tmt.settings.arguments import parse_command

if TYPE_CHECKING:
    from tmt.data.spec import DatasetSpec
    from tmt.labelling.place import Place
    from tmt.labelling.revealing import Revealing
    from tmt.model import TMTForSemanticSegmentation


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0 done, 2 a mistake named on one line, 128 + n stopped by signal n."""
    return command(lambda given: label(parse_command("python -m tmt.label", given, LabelConfig)), argv, SMALLER)


def label(config: LabelConfig) -> None:
    """Score all images, choose, and write. Raises tmt.errors.TMTError for what the user can mend."""
    from tmt.labelling.choice import Budget
    from tmt.labelling.images import Earlier, images_of_dataset, images_of_folder
    from tmt.labelling.picking import Picking
    from tmt.labelling.place import Place
    from tmt.labelling.scoring import Scoring
    from tmt.labelling.writing import Writer
    from tmt.model.factory import freeze, label_set_of
    from tmt.runtime.distributed import join

    place, budget = Place(Path(config.out)), Budget.of(config.budget)
    _check(config)
    with join(config.device) as world, world.only_one(place.out):
        place.check(config.overwrite, [path for path in (config.data, config.labelled) if path is not None])
        model = _open_model(config).to(world.device)
        freeze(model)
        revealing = _revealing(config, place, model) if config.reveal else None
        label_set = label_set_of(model)
        if config.dataset is None:
            images = images_of_folder(config.data)
        else:
            images = images_of_dataset(_spec(config), config.split, revealing.dataset if revealing else None)
        picking = Picking(config, images, Earlier.of(config.labelled, images, label_set))
        world.barrier()  # no process may look at the folder after another one has begun to fill it
        if world.main:
            place.claim()
        scoring = Scoring.of(config, model, place)
        scoring.run(images, world)
        if world.main:  # chooses among what all have seen
            reveal = partial(revealing.write, picking) if revealing else None
            summary = Writer(place, picking, label_set).write(picking.run(scoring, budget), reveal)
            print(f"{summary['picked']}, {summary['pixels']} pixels\n{place.out / 'index.html'}")


def _spec(config: LabelConfig) -> "DatasetSpec":
    """The dataset that the images are of."""
    from tmt.data.spec import DatasetSpec

    assert config.dataset is not None
    return DatasetSpec(config.dataset, config.data, classes=config.classes, images={config.split: config.images})


def _revealing(config: LabelConfig, place: "Place", model: "TMTForSemanticSegmentation") -> "Revealing":
    """Raises what opening the dataset raises, and ConfigError for other classes than the model's."""
    import warnings

    from tmt.data.datasets import in_order
    from tmt.errors import DataError
    from tmt.labelling.revealing import Revealing
    from tmt.model.factory import check_classes, label_set_of

    spec = _spec(config)
    dataset = in_order(spec.open(config.split), label_set_of(model))
    check_classes(config.model, model, dataset.label_set)
    label_set = dataset.label_set
    try:
        files = spec.list("val", labelled=False).images
    except DataError as error:
        warnings.warn(f"reveal: the dataset has no split val, so the revealed one has none: {error}", stacklevel=2)
        return Revealing(place, None, dataset, label_set)
    return Revealing(place, (in_order(spec.open("val"), label_set), files), dataset, label_set)


def _check(config: LabelConfig) -> None:
    """Raises ConfigError for settings that need a dataset where there is none."""
    given = {"reveal": config.reveal, "images": config.images, "classes": config.classes}
    if config.dataset is None and (names := [name for name, value in given.items() if value]):
        raise ConfigError(
            f"{names[0]}: needs a dataset, got {config.data} as a folder of images; add --dataset folders"
        )


def _open_model(config: LabelConfig) -> "TMTForSemanticSegmentation":
    """The model, with an estimator where the score needs one."""
    from tmt.labelling.scores import NEEDS_ESTIMATOR
    from tmt.model.factory import open_named, open_with_estimator

    score = config.region_score
    kinds = NEEDS_ESTIMATOR.get(score)
    if kinds is None:
        if config.estimator is not None:
            raise ConfigError(
                f"estimator: is for the scores {', '.join(NEEDS_ESTIMATOR)}, got {config.estimator} with {score}; "
                "leave it out"
            )
        return open_named(config.model)
    if config.estimator is not None:
        model = open_with_estimator(config.model, config.estimator)
    else:
        model = open_named(config.model)
        if not model.config.settings.transferability:
            raise ConfigError(
                f"score: {score} needs an estimator, got {config.model} without one; give the file that stage "
                "estimator left as --estimator, or a model of stage tmt"
            )
    kind = model.config.settings.estimator_kind
    if kind not in kinds:
        raise ConfigError(
            f"score: {score} needs an estimator of kind {' or '.join(kinds)}, got {kind}; train one with "
            f"--stages estimator --estimator.kind {kinds[0]}, or choose --score divergence"
        )
    return model
