"""Segment images with a saved model.

    python -m tmt.predict runs/demo/tmt/model --images street.jpg --out predictions
    python -m tmt.predict runs/demo/tmt/model --images folder     --out predictions

For each image NAME: NAME_labels.png (train ids, 8-bit), NAME_overlay.png (class colours over the image) and, where the
model has a transferability estimator, NAME_transferability.png (blue: divergent, red: like the source domain).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse.typing import ClosedUnitInterval

from tmt.config import Device, parse_model_command
from tmt.engine.cli import command
from tmt.errors import DataError

if TYPE_CHECKING:
    from torch import nn

SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class PredictConfig:
    """Segment images with a saved model and write labels, overlays and transferability maps as PNG."""

    model: str
    """Folder of a saved model."""
    images: str
    """An image, or a folder whose PNG and JPEG files are segmented."""
    out: str
    """Folder for the pictures; made where it is missing."""
    opacity: ClosedUnitInterval = 0.6
    """Opacity of the class colours over the image."""
    device: Device = "auto"
    """Where to compute; auto: CUDA when there is a GPU, else the CPU."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0 done, 2 a mistake named on one line, 128 + n stopped by signal n."""
    return command(lambda arguments: predict(parse_model_command("predict", arguments, PredictConfig)), argv)


def find_images(place: Path) -> list[Path]:
    """The image, or a folder's images by name. Raises DataError when there is none."""
    found = [place] if place.is_file() else sorted(p for p in place.glob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        kinds = ", ".join(SUFFIXES)
        raise DataError(f"{place}: must be an image or a folder with {kinds} files, got none; check --images")
    return found


def predict(config: PredictConfig) -> None:
    """Segment every image. Raises tmt.errors.TMTError."""
    from tqdm import tqdm

    from tmt.engine.checks import check_writable
    from tmt.engine.distributed import join
    from tmt.engine.models import freeze, open_model

    images, out = find_images(Path(config.images)), Path(config.out)
    check_writable(out)
    with join(config.device) as world:
        model = open_model(config.model, {}).to(world.device)
        freeze(model)
        for path in tqdm(images[world.rank :: world.size], "predict", disable=not world.main):
            _predict_one(model, path, out, config.opacity)


def _predict_one(model: "nn.Module", path: Path, out: Path, opacity: float) -> None:
    from PIL import Image

    from tmt.data import colourise
    from tmt.data.files import read_image
    from tmt.report import pictures

    image = read_image(path)  # (H, W, 3) uint8
    view = pictures.look(model, image)
    overlay = (1 - opacity) * image + opacity * colourise(view.prediction)
    drawn = {"labels": view.prediction, "overlay": overlay.round().astype("uint8")}
    if view.transferability is not None:
        drawn["transferability"] = pictures.heat(view.transferability)
    for kind, pixels in drawn.items():
        pictures.save(Image.fromarray(pixels), out / f"{path.stem}_{kind}.png")


if __name__ == "__main__":
    sys.exit(main())
