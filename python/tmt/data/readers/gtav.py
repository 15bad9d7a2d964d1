"""GTAV (Playing for Data): `images/%05d.png`, palette labels `labels/%05d.png`, and the splits in `split.mat`."""

from pathlib import Path

import numpy as np
from scipy.io import loadmat

from tmt.data.files import Listing, Pairs, read_pixels, require_folder
from tmt.data.labels import known_ids, lookup_table, to_train_ids
from tmt.errors import DataError

SPLIT_KEYS = {"train": "trainIds", "val": "valIds", "test": "testIds"}


def read_split(path: Path, split: str) -> list[int]:
    """The 1-based file numbers of one split, sorted.

    Raises DataError for a missing, damaged or empty split, and for one that lists a number twice.
    """
    if split not in SPLIT_KEYS:
        raise DataError(f"gtav: split must be one of {', '.join(SPLIT_KEYS)}, got {split!r}")
    if not path.is_file():
        raise DataError(f"{path}: file must exist, got no such file; it comes with the dataset's code archive")
    try:
        content = loadmat(path)
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise DataError(f"{path}: must be a MATLAB file, got {error}; copy it again") from error
    numbers = np.asarray(content.get(SPLIT_KEYS[split], ())).ravel()
    if not numbers.size or numbers.dtype.kind not in "uif" or not (numbers >= 1).all() or (numbers % 1).any():
        raise DataError(f"{path}: `{SPLIT_KEYS[split]}` must hold 1-based file numbers, got {numbers[:3].tolist()}")
    found, counts = np.unique(numbers.astype(int), return_counts=True)
    if (counts > 1).any():
        twice = found[counts > 1][0]
        raise DataError(f"{path}: `{SPLIT_KEYS[split]}` must list each image once, got {twice} again; copy it again")
    return found.tolist()


def read_label(path: Path) -> np.ndarray:
    """Training ids (H, W) uint8; the palette *index* is the label id, since several classes share a colour."""
    label = read_pixels(path, ("P", "L"), "labels are palette files; one decoded to colours cannot be read back")
    return to_train_ids(label, lookup_table("gtav"), known_ids("gtav"), str(path), "a GTAV label holds 0-34")


def listing(root: str | Path, split: str) -> Listing:
    """The split's files, sorted by number. Raises DataError for a missing folder or split file."""
    root = Path(root)
    images, labels = require_folder(root / "images", "gtav"), require_folder(root / "labels", "gtav")
    names = [f"{number:05d}" for number in read_split(root / "split.mat", split)]
    return Listing(
        names,
        [images / f"{name}.png" for name in names],
        [labels / f"{name}.png" for name in names],
        read_label,
        image_mend="split.mat lists it; unpack the image archives again",
        label_mend="every image needs a label; unpack the label archives again",
        resizes=True,
    )


class GTAV(Pairs):
    """The images of one split, sorted by number, with their labels as training ids.

    Raises DataError on construction for a missing folder or split file, and for an image or a label that is missing;
    on reading for damaged files. Some labels differ in size from their image: these are resized, with a warning.
    """

    def __init__(self, root: str | Path, split: str = "train"):
        super().__init__(listing(root, split))
