"""Cityscapes: `leftImg8bit/<split>/<city>/*_leftImg8bit.png` with `gtFine/<split>/<city>/*_gtFine_<kind>.png`."""

from pathlib import Path

import numpy as np

from tmt.data.files import Listing, Pairs, read_pixels, require_folder, require_some, walk_files, walk_images
from tmt.data.labels import known_ids, known_train_ids, lookup_table, to_train_ids, unchanged
from tmt.errors import DataError

SPLITS = ("train", "val", "test")
IMAGE_SUFFIX = "_leftImg8bit.png"
# In this order: labelIds come with the dataset, labelTrainIds only exist where the official scripts were run.
LABEL_SUFFIXES = ("_gtFine_labelIds.png", "_gtFine_labelTrainIds.png")


def read_label(path: Path) -> np.ndarray:
    """Training ids (H, W) uint8 from a labelIds or labelTrainIds file, told apart by the suffix, checked by the values.

    Raises DataError for an unreadable file, another mode than 8-bit greyscale, and values outside the suffix's table.
    """
    label = read_pixels(path, ("L",), "use the labelIds or labelTrainIds file, not the colour or instance one")
    if path.name.endswith("_labelTrainIds.png"):
        mend = "labelTrainIds hold 0-18 and 255; is it a labelIds file?"
        return to_train_ids(label, unchanged(), known_train_ids(), str(path), mend)
    mend = "labelIds hold 0-33; is it a labelTrainIds file?"
    return to_train_ids(label, lookup_table("cityscapes"), known_ids("cityscapes"), str(path), mend)


def find_label(city: Path, stem: str) -> Path:
    """The label that is there, labelIds first; where there is none, the labelIds file that should be."""
    found = [city / (stem + suffix) for suffix in LABEL_SUFFIXES]
    return next((path for path in found if path.is_file()), found[0])


def listing(root: str | Path, split: str) -> Listing:
    """The split's files, sorted by city and name. Raises DataError for a missing folder and an empty split."""
    if split not in SPLITS:
        raise DataError(f"cityscapes: split must be one of {', '.join(SPLITS)}, got {split!r}")
    folder = require_folder(Path(root) / "leftImg8bit" / split, "cityscapes")
    labels = require_folder(Path(root) / "gtFine" / split, "cityscapes")
    found = walk_images(folder, (IMAGE_SUFFIX.lower(),))
    images = require_some(found, f"cityscapes: {folder} must hold <city>/*{IMAGE_SUFFIX}", "check the root")
    names = [path.name.removesuffix(IMAGE_SUFFIX) for path in images]
    paths = [find_label(labels / image.parent.name, name) for image, name in zip(images, names, strict=True)]
    known = {(image.parent.name, name) for image, name in zip(images, names, strict=True)}
    strays = [
        path
        for suffix in LABEL_SUFFIXES
        for path in walk_files(labels, (suffix.lower(),))
        if (path.parent.name, path.name.removesuffix(suffix)) not in known
    ]
    return Listing(names, images, paths, read_label, strays=tuple(strays))


class Cityscapes(Pairs):
    """The images of one split, sorted by city and name, with their fine labels as training ids.

    Raises DataError on construction for a missing folder, an empty split or an image without label; on reading for
    whatever is wrong with the two files.
    """

    def __init__(self, root: str | Path, split: str = "train"):
        found = listing(root, split)
        for image, label in zip(found.images, found.labels, strict=True):
            if not label.is_file():
                stem = str(label).removesuffix(LABEL_SUFFIXES[0])
                raise DataError(
                    f"{image}: image must have a label {stem}{{{','.join(LABEL_SUFFIXES)}}}, got neither; "
                    "restore the label or remove the image"
                )
        super().__init__(found)
