"""Segment images with a saved model.

    python -m tmt.predict runs/demo/tmt/model street.jpg --out predictions
    python -m tmt.predict MODEL folder 'more/*/left/*.png' --out predictions --save labels,overlay,confidence
    python -m tmt.predict MODEL CITYSCAPES/leftImg8bit/val --out predictions --save labels --ids label --flip
    torchrun --nproc_per_node 2 -m tmt.predict ...       the images divided among two processes

Each kind of picture has a folder of its own in --out, in which the images keep their names and their folders below the
deepest one that holds everything given:
    labels           the class of each pixel, 8-bit grey: train ids, or Cityscapes label ids with --ids label
    overlay          the classes' colours over the image
    transferability  blue: divergent (0), red: like the source domain (1)
    confidence       8-bit grey, 255 x the prediction's part of all classes' scores
Images with an EXIF orientation are turned upright. The same command again goes on with the images that are missing.
"""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from tmt.cli.command import command
from tmt.cli.evaluate import SMALLER
from tmt.errors import ConfigError, DataError
from tmt.settings import PredictConfig
from tmt.settings.arguments import parse_command

if TYPE_CHECKING:
    from tmt.inference.prediction import Input
    from tmt.model import TMTForSemanticSegmentation
    from tmt.runtime.distributed import World


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0 done, 2 a mistake named on one line, 128 + n stopped by signal n."""
    return command(lambda given: predict(parse_command("python -m tmt.predict", given, PredictConfig)), argv, SMALLER)


def predict(config: PredictConfig) -> None:
    """Segment every image that is not done. Raises tmt.errors.TMTError; an image that cannot be read is left out."""
    from tmt.inference.prediction import Origin, check_case, find_images
    from tmt.model.factory import freeze, open_named, transfer_switch
    from tmt.runtime.distributed import join
    from tmt.runtime.lock import ignores_case

    if not config.save:
        raise ConfigError("save: must name at least one kind of picture, got none; choose labels")
    out = Path(config.out)
    inputs = find_images(config.paths, out)
    with join(config.device) as world, world.only_one(out):
        if ignores_case(out):
            check_case(inputs)
        model = open_named(config.model, transfer_switch(config.transferability)).to(world.device)
        _check_model(config, model)
        freeze(model)
        origin = Origin.of(config, out)
        todo = origin.check(inputs)
        world.barrier()  # no process may look at the folder after another one has begun to fill it
        if world.main:
            origin.write()
        world.say(f"{len(todo)} of {len(inputs)} images to do")
        _predict_all(config, model, todo, world)


def _check_model(config: PredictConfig, model: "TMTForSemanticSegmentation") -> None:
    from tmt.data import CITYSCAPES19
    from tmt.model.factory import label_set_of, listed

    if "transferability" in config.save and not model.config.settings.infers_with_transferability:
        raise ConfigError(
            f"save: {config.model} has no transferability in inference, got {','.join(config.save)}; leave it out"
        )
    known = label_set_of(model)
    if config.ids == "label" and known != CITYSCAPES19:
        raise ConfigError(
            f"ids: label ids exist for the 19 classes of Cityscapes, got a model of {listed(known.names)}; use train"
        )


def _predict_all(
    config: PredictConfig, model: "TMTForSemanticSegmentation", todo: "list[Input]", world: "World"
) -> None:
    """This process's share of the images; while one is segmented, the pictures of the one before are written."""
    import torch
    from tqdm import tqdm

    from tmt.inference.prediction import Painter, groups, write_pictures

    painter, failures, share = Painter.of(config, model), [], todo[world.rank :: world.size]
    pace = 0.5 if sys.stderr.isatty() else 20  # seconds

    def left_out(error: DataError) -> None:
        failures.append(error)
        tqdm.write(f"left out: {error}")

    items = tqdm(share, "predict", unit="image", mininterval=pace, disable=not world.main)
    with ThreadPoolExecutor(1) as writer:
        written = writer.submit(write_pictures, {})
        for group in groups(items, config.batch, left_out):
            drawn = painter.paint(group)
            written.result()  # at most one group waits; a full disk ends it all
            written = writer.submit(write_pictures, drawn)
        written.result()
    _report(failures, int(world.sum(torch.tensor([len(failures)]))), len(todo), world)


def _report(failures: list[DataError], count: int, images: int, world: "World") -> None:
    """Raise DataError where `count` images of all processes, of which these `failures` are ours, were left out."""
    if count == 1 and failures:
        raise failures[0]
    if count and world.main:
        raise DataError(f"{count} of {images} images could not be read and were left out, see above; mend them")
