"""The images to choose from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tmt.data import IGNORE
from tmt.data.files import read_ids, read_image
from tmt.data.spec import DatasetSpec
from tmt.errors import DataError
from tmt.inference.prediction import find_images

WRITTEN = ("masks", "overlays", "scores", "dataset")
"""The folders in `out`."""


@dataclass(frozen=True)
class ToLabel:
    """One image that may get labels."""

    name: str
    """What its files are called, with folders, without ending."""
    path: Path
    place: int
    """Of the image in its dataset, where there is one."""

    def read(self) -> np.ndarray:
        """Its pixels (H, W, 3) uint8, upright."""
        return read_image(self.path)


def images_of_folder(folder: str, out: Path) -> list[ToLabel]:
    """The images below a folder, sorted by name, but for what lies in `out` from before.

    Raises DataError for a folder that is none or holds none.
    """
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: must be a folder of images, got no such folder; check the path")
    found = find_images([folder], out, WRITTEN)
    return [ToLabel(one.name.removesuffix(".png"), one.image, i) for i, one in enumerate(found)]


def images_of_dataset(spec: DatasetSpec, split: str) -> list[ToLabel]:
    """The images of a dataset's split, in its order, whether they have labels or not."""
    listing = spec.list(split, labelled=False)
    pairs = zip(listing.names, listing.images, strict=True)
    return [ToLabel(name, path, i) for i, (name, path) in enumerate(pairs)]


@dataclass(frozen=True)
class Earlier:
    """The label maps that exist already, of some images or none."""

    folder: Path | None

    @classmethod
    def of(cls, folder: str | None, images: Sequence[ToLabel]) -> "Earlier":
        """Those in a folder. Raises DataError for one that is missing or holds labels of none of the images."""
        if folder is None:
            return cls(None)
        earlier = cls(Path(folder))
        if not any(earlier.has(one) for one in images):
            raise DataError(
                f"{folder}: must hold label maps named as the images, such as {images[0].name}.png, got none; check "
                "--labelled"
            )
        return earlier

    def file(self, image: ToLabel) -> Path:
        """Where an image's label map would be."""
        return Path(self.folder or "") / f"{image.name}.png"

    def has(self, image: ToLabel) -> bool:
        """Whether an image has a label map."""
        return self.folder is not None and self.file(image).is_file()

    def read(self, image: ToLabel, size: tuple[int, ...]) -> np.ndarray | None:
        """An image's label map (H, W) uint8, 255 without label; None where there is none. Raises DataError for one of
        another size."""
        if not self.has(image):
            return None
        path = self.file(image)
        label = read_ids(path, ("L", "P"), "label maps are PNGs of class ids, 255 where there is no label").pixels
        if label.shape != size:
            raise DataError(f"{path}: label must have the image's size {size}, got {label.shape}; is it of that image?")
        return label

    def touched(self, image: ToLabel, regions: np.ndarray) -> np.ndarray:
        """(R,) bool, the regions (H, W) of an image in which a pixel has a label."""
        label = self.read(image, (regions.shape[0], regions.shape[1]))
        touched = np.zeros(int(regions.max()) + 1, dtype=bool)
        if label is not None:
            touched[np.unique(regions[label != IGNORE])] = True
        return touched
