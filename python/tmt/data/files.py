"""Reading image files and their labels, with one clear error for each way in which they can be wrong."""

import copy
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, get_args

import numpy as np
from PIL import Image

from tmt.data.decoding import DEEP_LABEL, Picture, decode, to_rgb
from tmt.data.labels import CITYSCAPES19, LabelSet
from tmt.errors import DataError
from tmt.settings.data import DrawnName

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
AMBIGUOUS = (
    "it does not show whether the label is drawn on the picture as stored or as turned; "
    "turn the picture itself and drop the tag"
)


class Sample(NamedTuple):
    """One labelled image."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    label: np.ndarray  # (H, W) uint8, training ids, 255 = ignore
    name: str  # unique within the split; what predictions are called


class Dataset(Protocol):
    """What every reader offers: its classes, a length, the samples' names, and samples by position."""

    label_set: LabelSet
    names: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def label(self, index: int) -> np.ndarray: ...


@dataclass(frozen=True)
class Listing:
    """Where the files of one split are expected, and how its labels are read; nothing of it has been opened yet."""

    names: list[str]
    images: list[Path]
    labels: list[Path]
    read_label: Callable[[Path], np.ndarray]
    image_mend: str = "restore it or remove its label"
    label_mend: str = "every image needs a label; unpack the label archive again, or remove the image"
    label_set: LabelSet = CITYSCAPES19
    resizes: bool = False  # whether a label of another size than its image is resized, with a warning
    ids: np.ndarray | None = None  # (256,) uint8 training id of each id in a label; None: they are training ids
    strays: tuple[Path, ...] = ()  # files that look like labels of this split and have no image

    def __post_init__(self) -> None:
        taken: dict[str, Path] = {}
        for name, image in zip(self.names, self.images, strict=True):
            if name in taken:
                raise DataError(f"{image}: images must differ in name, got {taken[name]} called {name} too; rename one")
            taken[name] = image


class Pairs:
    """The labelled images of a listing.

    Raises DataError on construction for the first image or label that is missing; on reading for whatever is wrong with
    the two files. Warns of labels that have no image.
    """

    def __init__(self, listing: Listing):
        self.listing = listing
        self.label_set = listing.label_set
        self.names = listing.names
        self.images = require_files(listing.images, listing.image_mend)
        self.labels = require_files(listing.labels, listing.label_mend)
        _tell_of_first(self.images)
        if listing.strays:
            text = f"{listing.strays[0]}: label must have an image, got none ({len(listing.strays)} such)"
            warnings.warn(f"{text}; left out: restore it, or remove this", stacklevel=4)

    def with_listing(self, listing: Listing) -> "Pairs":
        """The same files, read as another listing of them says."""
        other = copy.copy(self)
        other.listing, other.label_set = listing, listing.label_set
        return other

    def __getstate__(self) -> dict[str, Any]:
        """What another process that is to read the data gets, with what it need not tell again."""
        return self.__dict__ | {"told": set(_told)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        _told.update(state.pop("told"))
        self.__dict__.update(state)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return read_sample(self.listing, index)

    def label(self, index: int) -> np.ndarray:
        """The label file alone, training ids (h, w) uint8, of another size than the image where that is allowed."""
        return self.listing.read_label(self.labels[index])


def _tell_of_first(images: list[Path]) -> None:
    """Tell of a conversion now, in the process that opens the data, before several others read it."""
    with suppress(DataError):  # said when the image is needed
        read_picture(images[0])


def read_sample(listing: Listing, index: int) -> Sample:
    """One sample of a listing. Raises DataError for whatever is wrong with its two files."""
    image, label = listing.images[index], listing.labels[index]
    return read_pair(image, label, listing.names[index], listing.read_label, listing.resizes)


@contextmanager
def readable() -> Iterator[None]:
    """A DataError in place of a PermissionError, of a folder that may not be looked into."""
    try:
        yield
    except PermissionError as error:
        raise DataError(f"{error.filename}: must be readable, got {error.strerror}; check the permissions") from error


def require_folder(folder: Path, dataset: str) -> Path:
    """`folder`, or DataError if there is none."""
    if not folder.is_dir():
        drawn = f", or make embedded scenes with `python -m tmt.data make --dataset {dataset}`"
        raise DataError(
            f"{dataset}: folder {folder} must exist, got no such folder; check the root and the split"
            f"{drawn if dataset in get_args(DrawnName) else ''}"
        )
    return folder


def read_bytes(path: Path, kind: str = "image file") -> bytes:
    """The content of a file, called a `kind` in messages. Raises DataError for a missing, empty or unreadable one."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: file must exist, got no such file; restore it or leave its partner out") from error
    except OSError as error:
        raise DataError(f"{path}: must be a readable file, got {error.strerror}; copy or make it again") from error
    if not data:
        raise DataError(f"{path}: must be a complete {kind}, got an empty file; copy or make it again")
    return data


def read_pixels(path: Path, modes: tuple[str, ...], mend: str) -> np.ndarray:
    """Ids of a label file, uint8 (H, W); see `read_ids`."""
    return read_ids(path, modes, mend).pixels


def read_ids(path: Path, modes: tuple[str, ...], mend: str, data: bytes | None = None) -> Picture:
    """A label file, or its content `data`, of one of the pillow `modes`; the pixels of palette files are their indices.

    Raises DataError for a missing, damaged or truncated file, another format than PNG, more bits and another mode.
    """
    picture = decode(read_bytes(path) if data is None else data, path, DEEP_LABEL + mend)
    if picture.format != "PNG":
        got = f"{picture.format}, which may have changed the ids"
        raise DataError(f"{path}: label must be a PNG file, got {got}; {mend}")
    if picture.mode not in modes:
        raise DataError(f"{path}: image mode must be {' or '.join(modes)}, got {picture.mode}; {mend}")
    if picture.mode == "L" and picture.bits < 8:
        got = f"{picture.bits}, which decode into other ids"
        raise DataError(f"{path}: label must have 8 bits, got {got}; {mend}")
    return picture


def read_picture(path: Path) -> Picture:
    """A picture as stored, as 8-bit RGB; one of another kind is converted, which is told once for a folder.

    Raises DataError for what cannot be read or converted.
    """
    picture = decode(read_bytes(path), path)
    pixels, kind = to_rgb(picture, path)
    if kind:
        _tell(path.parent, kind)
    return picture._replace(pixels=pixels, mode="RGB", bits=8, palette=None)


_told: set[tuple[Path, str]] = set()


def _tell(folder: Path, kind: str) -> None:
    """Warns of images that are converted, once for a folder and kind in the life of a process."""
    if (folder, kind) not in _told:
        _told.add((folder, kind))
        warnings.warn(f"{folder}: {kind} images are converted to 8-bit RGB", stacklevel=4)


def tell_again() -> None:
    """Forget which folders' conversions have been told."""
    _told.clear()


def read_image(path: Path) -> np.ndarray:
    """An RGB image, uint8 (H, W, 3), turned upright where its EXIF orientation asks for it."""
    picture = read_picture(path)
    return turned(picture.pixels, picture.orientation)


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (H, W, 3) as an EXIF orientation says they are to be seen."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def read_pair(
    image: Path, label: Path, name: str, read_label: Callable[[Path], np.ndarray], resizes: bool = False
) -> Sample:
    """The sample of an image file and its label file.

    An image with an EXIF orientation is taken as stored or as turned, whichever has the label's size, with a warning.
    With `resizes` a label of another size is resized to the image's, nearest neighbour, with a warning. Raises
    DataError if the two differ in size otherwise, if the orientation leaves both ways open, and what reading raises.
    """
    picture, ids = read_picture(image), read_label(label)
    pixels = picture.pixels if picture.orientation == 1 else _as_labelled(picture, ids.shape, image)
    if pixels.shape[:2] != ids.shape:
        if not resizes:
            raise DataError(
                f"{label}: label must have the image's size {pixels.shape[:2]}, got {ids.shape}; "
                "image and label are not of one pair"
            )
        height, width = pixels.shape[:2]
        warnings.warn(f"{label}: label {ids.shape} resized to {(height, width)}", stacklevel=3)
        ids = np.array(Image.fromarray(ids).resize((width, height), Image.Resampling.NEAREST))
    return Sample(pixels, ids, name)


def _as_labelled(picture: Picture, size: tuple[int, int], path: Path) -> np.ndarray:
    """The pixels as stored or as the EXIF orientation turns them, whichever alone have `size` (height, width)."""
    stored = picture.pixels.shape[:2]
    upright = stored[::-1] if picture.orientation >= 5 else stored
    if stored == upright or size not in (stored, upright):
        raise DataError(
            f"{path}: image must be stored upright, got EXIF orientation {picture.orientation}; {AMBIGUOUS}"
        )
    which = "as stored" if size == stored else "turned"
    warnings.warn(f"{path}: EXIF orientation {picture.orientation}; taken {which}, as its label is", stacklevel=4)
    return picture.pixels if size == stored else turned(picture.pixels, picture.orientation)


def require_some(images: list, where: str, mend: str) -> list:
    """`images`, or DataError if there are none."""
    if not images:
        raise DataError(f"{where}, got none; {mend}")
    return images


def missing_files(paths: Sequence[Path]) -> list[Path]:
    """Those of `paths` that do not exist; each folder is listed once."""
    present = {folder: _entries(folder) for folder in {path.parent for path in paths}}
    return [path for path in paths if path.name not in present[path.parent]]


def require_files(paths: list[Path], mend: str) -> list[Path]:
    """`paths`, or DataError naming the first that is missing and how many are."""
    if missing := missing_files(paths):
        raise DataError(f"{missing[0]}: file must exist, got no such file ({len(missing)} missing); {mend}")
    return paths


def _entries(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise DataError(f"{folder}: must be a readable folder, got {error.strerror}; check its permissions") from error


def list_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files directly in `folder` with one of the suffixes, sorted by name, as `walk_files` finds them."""
    return [folder / name for name in sorted(_visible(folder)) if name.lower().endswith(suffixes)]


def list_images(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """As `list_files`; warns of other files."""
    return _tell_others([folder / name for name in sorted(_visible(folder))], folder, suffixes)


def walk_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files below `folder` with one of the suffixes (lower case; the files' may be upper), sorted.

    Symbolic links are followed, hidden files and folders left out: systems keep thumbnails and notes of their own in
    them, such as `._0001.png`. Raises DataError for a link that leads back to a folder above it.
    """
    return sorted(path for path in _walk(folder, ()) if path.name.lower().endswith(suffixes))


def walk_images(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES, apart: tuple[str, ...] = ()) -> list[Path]:
    """As `walk_files`; warns of other files. Paths that begin with one of `apart` are neither."""
    return _tell_others(sorted(p for p in _walk(folder, ()) if not str(p).startswith(apart)), folder, suffixes)


def _tell_others(files: list[Path], folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Those of `files` that have one of the suffixes; warns of the others."""
    images = [path for path in files if path.name.lower().endswith(suffixes)]
    others = sorted({*files} - {*images})
    if others:
        text = f"{folder}: {len(others)} files are not read, such as {others[0].relative_to(folder)}"
        warnings.warn(f"{text}; images end with {', '.join(suffixes)}", stacklevel=4)
    return images


def _visible(folder: Path) -> set[str]:
    return {name for name in _entries(folder) if not name.startswith(".")}


def _walk(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:
        raise DataError(f"{folder}: must not lead back to a folder above it, got a link to {real}; remove the link")
    for name in sorted(_visible(folder)):
        path = folder / name
        if path.is_dir():
            yield from _walk(path, (*above, real))
        else:
            yield path
