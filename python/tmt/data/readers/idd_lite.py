"""IDD-Lite: `leftImg8bit/<split>/<drive>/*_image.jpg` with `gtFine/<split>/<drive>/*_label.png` of seven classes.

Files and ids are those of the release (idd20k_lite; ids are level1Id of github.com/AutoNUE/public-code).
"""

from pathlib import Path

import numpy as np

from tmt.data.files import Listing, Pairs, read_pixels, require_folder, require_some, walk_files, walk_images
from tmt.data.labels import known_ids, lookup_table, table_classes, to_train_ids
from tmt.errors import DataError

SPLITS = ("train", "val", "test")
IMAGE, LABEL, INSTANCES = "_image.jpg", "_label.png", "_inst_label.png"


def read_label(path: Path) -> np.ndarray:
    """Training ids (H, W) uint8 as the file holds them. Raises DataError for any other file and id."""
    label = read_pixels(path, ("L", "P"), f"use the files *{LABEL}, not those of instances")
    mend = f"ids are 0-6 and 255; is it a file *{INSTANCES}?"
    return to_train_ids(label, lookup_table("idd_lite"), known_ids("idd_lite"), str(path), mend)


def listing(root: str | Path, split: str) -> Listing:
    """The split's files, sorted by drive and name. Raises DataError for a missing folder and an empty split."""
    if split not in SPLITS:
        raise DataError(f"idd_lite: split must be one of {', '.join(SPLITS)}, got {split!r}")
    folder = require_folder(Path(root) / "leftImg8bit" / split, "idd_lite")
    masks = require_folder(Path(root) / "gtFine" / split, "idd_lite")
    images = walk_images(folder, (IMAGE,))
    images = require_some(images, f"idd_lite: {folder} must hold <drive>/*{IMAGE}", "check the root")
    names = [path.relative_to(folder).as_posix().removesuffix(IMAGE) for path in images]
    labels = [masks / f"{name}{LABEL}" for name in names]
    found = (path for path in walk_files(masks, (LABEL,)) if not path.name.endswith(INSTANCES))
    strays = tuple(sorted(set(found) - set(labels)))
    return Listing(names, images, labels, read_label, label_set=table_classes("idd_lite"), strays=strays)


class IDDLite(Pairs):
    """The images of one split, called DRIVE/NUMBER and sorted by it, with their labels as training ids.

    Raises DataError on construction for a missing folder, an empty split or an image without label; on reading for
    whatever is wrong with the two files.
    """

    def __init__(self, root: str | Path, split: str = "train"):
        super().__init__(listing(root, split))
