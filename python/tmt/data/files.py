"""Reading image files, with one clear error for each way in which they can be wrong."""

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
