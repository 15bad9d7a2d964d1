"""Adapting a model and looking at images from a program of one's own, in a few lines.

    import tmt

    model = tmt.adapt("mine/day", "mine/night", out="runs/mine", settings={"target.images": 20})
    found = tmt.segment(model, "street.jpg")
    found.prediction        # (H, W) int64, class ids
    found.transferability   # (H, W) float32 in [0, 1], T

The commands do the same with files; what they check is checked here, and raised as `tmt.TMTError`.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tmt.data import normalise
from tmt.data.files import read_image
from tmt.errors import ConfigError, DataError
from tmt.inference.sliding_window import WHOLE, Segmentation
from tmt.inference.sliding_window import segment as segment_pixels
from tmt.model import TMTForSemanticSegmentation
from tmt.model.factory import freeze, open_named
from tmt.settings import ORDER, Config, InferenceConfig, outcome
from tmt.settings.arguments import parse
from tmt.training.run import train

Picture = str | Path | Image.Image | np.ndarray
Domain = str | Path | tuple[str, str | Path]


def adapt(
    source: Domain, target: Domain, out: str | Path, *, preset: str = "demo", settings: Mapping[str, object] = {}
) -> TMTForSemanticSegmentation:
    """Train as `python -m tmt.train` does, going on with what is in `out` already; returns the last stage's model.

    Args:
        source: folder of the labelled source dataset in the layout `folders`, or (layout, folder), such as
            ("cityscapes", "data/cityscapes").
        target: the target dataset, likewise.
        out: the run's folder.
        preset: a preset or a YAML file of settings.
        settings: others by their names with dots, such as {"target.steps": 500, "stages": "source,estimator,tmt"}.

    Returns:
        The model of the last stage that trains one, in evaluation mode, on the CPU.

    Raises:
        TMTError: what the command would say on one line.
        Interrupted: stopped by a signal; the same call goes on.
    """
    config = _config(source, target, out, preset, settings)
    trained = [stage for stage in ORDER if stage in config.stages and stage != "estimator"]
    if not trained:
        raise ConfigError(f"adapt: stages must train a model, got {', '.join(config.stages)}; add tmt")
    train(config)
    return load(outcome(Path(config.out), trained[-1]))


def load(folder: str | Path) -> TMTForSemanticSegmentation:
    """A saved model for `segment`, in evaluation mode, without gradients, from a folder or from a model hub.

    Raises CheckpointError for a folder without one, ConfigError for a hub id, `owner/model`, that cannot be fetched.
    """
    model = open_named(folder)
    freeze(model)
    return model


def segment(
    model: TMTForSemanticSegmentation | str | Path, image: Picture, inference: InferenceConfig = WHOLE
) -> Segmentation:
    """Segment one image.

    Args:
        model: in evaluation mode, or the folder of a saved one.
        image: a file, a PIL image, or RGB pixels (H, W, 3) uint8.
        inference: windows, scales, mirroring.

    Returns:
        Class ids and confidence of each pixel, and T where the model has one.

    Raises:
        DataError: an image that cannot be read, or pixels of another kind.
        TMTError: scores that are not finite, or too little memory.
    """
    if not isinstance(model, TMTForSemanticSegmentation):
        model = load(model)
    pixels = torch.stack([normalise(_pixels(image), model.scaling)]).to(model.device)
    name = str(image) if isinstance(image, str | Path) else "the image"
    return segment_pixels(model, pixels, inference, maps=True, confidence=True, name=name)


def _config(source: Domain, target: Domain, out: str | Path, preset: str, settings: Mapping[str, object]) -> Config:
    words = [f"--config={preset}"]
    for role, domain in (("source", source), ("target", target)):
        layout, folder = ("folders", domain) if isinstance(domain, str | Path) else domain
        words += [f"--data.{role}={layout}", f"--data.{role}_root={folder}"]
    words += [f"--{name}={_text(value)}" for name, value in settings.items()]
    return replace(parse([*words, f"--out={out}"]), resume=(Path(out) / "config.yaml").is_file())


def _text(value: object) -> str:
    """A value as on a command line."""
    if isinstance(value, tuple | list):
        return f"[{','.join(map(_text, value))}]"
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _pixels(image: Picture) -> np.ndarray:
    if isinstance(image, str | Path):
        return read_image(Path(image))
    pixels = np.asarray(image.convert("RGB")) if isinstance(image, Image.Image) else image
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise DataError(f"segment: image must be RGB pixels (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}")
    return pixels
