"""Reading image files, with one clear error for each way in which they can be wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from tmt.errors import DataError


class Sample(NamedTuple):
    """One labelled image."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    label: np.ndarray  # (H, W) uint8, training ids, 255 = ignore
    name: str  # unique within the split; what predictions are called


class Dataset(Protocol):
    """What every reader offers: a length, the samples' names, and samples by position."""

    names: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def require_folder(folder: Path, dataset: str) -> Path:
    """`folder`, or DataError if there is none."""
    if not folder.is_dir():
        raise DataError(
            f"{dataset}: folder {folder} must exist, got no such folder; "
            f"check the root and the split, or make embedded scenes with `python -m tmt.data make --dataset {dataset}`"
        )
    return folder


def read_pixels(path: Path, modes: tuple[str, ...], mend: str) -> np.ndarray:
    """Pixels of an image file of one of the pillow `modes`, uint8 (H, W, 3) or, for single-channel modes, (H, W).

    Palette images give their indices. Raises DataError for a missing, damaged or truncated file and for another mode.
    """
    try:
        with Image.open(path) as file:
            mode, pixels = file.mode, np.array(file)
    except FileNotFoundError as error:
        raise DataError(f"{path}: file must exist, got no such file; restore it or leave its partner out") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: must be a complete image file, got {error}; copy or make it again") from error
    if mode not in modes:
        raise DataError(f"{path}: image mode must be {' or '.join(modes)}, got {mode}; {mend}")
    return pixels


def read_image(path: Path) -> np.ndarray:
    """An RGB image, uint8 (H, W, 3)."""
    return read_pixels(path, ("RGB",), "convert it to 8-bit RGB")


def read_pair(image: Path, label: Path, name: str, read_label: Callable[[Path], np.ndarray]) -> Sample:
    """The sample of an image file and its label file. Raises DataError if they differ in size, and what reading does."""
    pixels, ids = read_image(image), read_label(label)
    if pixels.shape[:2] != ids.shape:
        raise DataError(
            f"{label}: label must have the image's size {pixels.shape[:2]}, got {ids.shape}; "
            "image and label are not of one pair"
        )
    return Sample(pixels, ids, name)


def require_some(images: list[Path], where: str, mend: str) -> list[Path]:
    """`images`, or DataError if there are none."""
    if not images:
        raise DataError(f"{where}, got none; {mend}")
    return images


def require_files(paths: list[Path], mend: str) -> list[Path]:
    """`paths`, which lie in one folder, or DataError naming the first that is missing and how many are."""
    present = {path.name for path in paths[0].parent.iterdir()}
    missing = [path for path in paths if path.name not in present]
    if missing:
        raise DataError(f"{missing[0]}: file must exist, got no such file ({len(missing)} missing); {mend}")
    return paths
