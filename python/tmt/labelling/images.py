"""The images to choose from, and the labels that some have already."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tmt.data import IGNORE, Dataset, LabelSet
from tmt.data.class_maps import reordered
from tmt.data.files import Listing, read_ids, read_image
from tmt.data.readers.folders import Classes, read_classes, read_label
from tmt.data.spec import DatasetSpec
from tmt.errors import DataError
from tmt.inference.prediction import find_images
from tmt.labelling.place import is_ours

LONGEST = 200
"""Bytes of a file's name without ending: ours are somewhat longer."""


@dataclass(frozen=True)
class ToLabel:
    """One image that may get labels."""

    name: str
    """What its files are called, with folders, without ending."""
    path: Path
    place: int
    """Of the image in its dataset, where there is one."""
    dataset: Dataset | None = None
    """Whose labels are revealed."""

    def read(self) -> np.ndarray:
        """Its pixels (H, W, 3) uint8, upright or, where its label is to be revealed, as that one lies."""
        return read_image(self.path) if self.dataset is None else self.dataset[self.place].image


def images_of_folder(folder: str) -> list[ToLabel]:
    """The images below a folder, sorted by name, without pictures that this command made.

    Raises DataError for a folder that is none or holds none.
    """
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: must be a folder of images, got no such folder; check the path")
    found = [one for one in find_images([folder], Path(folder), ()) if not is_ours(one.image)]
    if not found:
        raise DataError(f"{folder}: must hold images, got none but those that this command made; check the folder")
    return _checked([ToLabel(one.name.removesuffix(".png"), one.image, i) for i, one in enumerate(found)])


def images_of_dataset(spec: DatasetSpec, split: str, dataset: Dataset | None) -> list[ToLabel]:
    """The images of a dataset's split, in its order, whether they have labels or not; `dataset` if they are used."""
    listing = spec.list(split, labelled=False)
    pairs = zip(listing.names, listing.images, strict=True)
    return _checked([ToLabel(name, path, i, dataset) for i, (name, path) in enumerate(pairs)])


def _checked(images: list[ToLabel]) -> list[ToLabel]:
    """Raises DataError for a name that no file of ours can have."""
    for image in images:
        try:
            longest = max(len(part.encode()) for part in image.name.split("/"))
        except UnicodeEncodeError as error:
            raise DataError(f"{image.path!r}: name must be UTF-8, got other bytes; rename it") from error
        if longest > LONGEST:
            raise DataError(f"{image.path}: name must have at most {LONGEST} bytes, got {longest}; rename it")
    return images


@dataclass(frozen=True)
class Earlier:
    """The label maps that exist already, of some images or none."""

    folder: Path | None
    label_set: LabelSet
    """The model's classes, of which training ids are."""
    read_by_table: Callable[[Path], np.ndarray] | None = None
    """Reads training ids by the table of the dataset that the folder is of; None: the maps hold them."""

    @classmethod
    def of(cls, folder: str | None, images: Sequence[ToLabel], label_set: LabelSet) -> "Earlier":
        """Those in a folder, named as the images. In the layout `folders`, DATASET/labels/SPLIT, they are read by the
        table of that dataset.

        Raises DataError for a folder that is missing or holds labels of none of the images, and for a table of other
        classes than the model's.
        """
        if folder is None:
            return cls(None, label_set)
        if not Path(folder).is_dir():
            raise DataError(f"{folder}: must be a folder of label maps, got no such folder; check --labelled")
        table = Path(folder).resolve().parent.parent / "classes.csv"
        classes = read_classes(table) if table.is_file() else None
        if classes is not None and set(classes.label_set.names) != set(label_set.names):
            raise DataError(
                f"{table}: must have the model's classes {', '.join(label_set.names)}, got "
                f"{', '.join(classes.label_set.names)}; give labels of the same classes"
            )
        earlier = cls(Path(folder), label_set, None if classes is None else _reader(classes, label_set))
        if not any(earlier.has(one) for one in images):
            raise DataError(
                f"{folder}: must hold label maps named as the images, such as {images[0].name}.png, got none; check "
                "--labelled"
            )
        return earlier

    def has(self, image: ToLabel) -> bool:
        """Whether an image has a label map."""
        return self.folder is not None and self._file(image).is_file()

    def _file(self, image: ToLabel) -> Path:
        return Path(self.folder or "") / f"{image.name}.png"

    def read(self, image: ToLabel, size: tuple[int, ...]) -> np.ndarray | None:
        """An image's training ids (H, W) uint8, 255 without label; None where there is no map. Raises DataError for one
        of another size, or with an id that is no class."""
        if not self.has(image):
            return None
        path = self._file(image)
        label = (self.read_by_table or self._read_ids)(path)
        if label.shape != size:
            raise DataError(f"{path}: label must have the image's size {size}, got {label.shape}; is it of that image?")
        return label

    def _read_ids(self, path: Path) -> np.ndarray:
        label = read_ids(path, ("L", "P"), "label maps are PNGs of class ids, 255 where there is no label").pixels
        if (wrong := label[(label != IGNORE) & (label >= len(self.label_set))]).size:
            raise DataError(
                f"{path}: label must hold training ids 0..{len(self.label_set) - 1} or 255, got {wrong[0]}; or keep "
                "the maps in DATASET/labels/SPLIT with DATASET/classes.csv, which says what their ids mean"
            )
        return label

    def touched(self, image: ToLabel, regions: np.ndarray) -> np.ndarray:
        """(R,) bool, the regions (H, W) of an image in which a pixel has a label."""
        label = self.read(image, regions.shape)
        touched = np.zeros(int(regions.max()) + 1, dtype=bool)
        if label is not None:
            touched[np.unique(regions[label != IGNORE])] = True
        return touched


def _reader(classes: Classes, label_set: LabelSet) -> Callable[[Path], np.ndarray]:
    """Reads label maps by a table, as training ids of the same classes in the order of `label_set`."""
    listing = Listing([], [], [], partial(read_label, classes=classes), label_set=classes.label_set)
    return reordered(listing, label_set.names).read_label
