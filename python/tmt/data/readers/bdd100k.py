"""BDD100K: `images/10k/<split>/*.jpg` with `labels/sem_seg/masks/<split>/*.png`, or the legacy `seg/` folders."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tmt.data.files import Listing, Pairs, list_files, list_images, read_pixels, require_folder, require_some
from tmt.data.labels import known_train_ids, to_train_ids, unchanged
from tmt.errors import DataError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Layout:
    """Where a release of the dataset keeps its files, below the root."""

    images: str
    labels: str
    label_suffix: str  # after the image's stem


CURRENT = Layout("images/10k", "labels/sem_seg/masks", ".png")
LEGACY = Layout("seg/images", "seg/labels", "_train_id.png")


def read_label(path: Path) -> np.ndarray:
    """Training ids (H, W) uint8, as the file holds them.

    Raises DataError for an unreadable file, another mode than 8-bit greyscale, and other values than training ids.
    """
    label = read_pixels(
        path, ("L",), "use the sem_seg masks of training ids; colour maps and the bitmasks of pan_seg are other things"
    )
    mend = "training ids are 0-18 and 255; is it BDD100K's raw encoding, 0-40?"
    return to_train_ids(label, unchanged(), known_train_ids(), str(path), mend)


def listing(root: str | Path, split: str) -> Listing:
    """The split's files, sorted by name. Raises DataError for a missing folder and an empty split."""
    if split not in SPLITS:
        raise DataError(f"bdd100k: split must be one of {', '.join(SPLITS)}, got {split!r}")
    root = Path(root)
    legacy = not (root / CURRENT.images).is_dir() and (root / LEGACY.images).is_dir()
    layout = LEGACY if legacy else CURRENT
    folder = require_folder(root / layout.images / split, "bdd100k")
    masks = require_folder(root / layout.labels / split, "bdd100k")
    images = require_some(list_images(folder, (".jpg",)), f"bdd100k: {folder} must hold *.jpg", "check the root")
    names = [path.stem for path in images]
    labels = [masks / (name + layout.label_suffix) for name in names]
    strays = set(list_files(masks, (layout.label_suffix,))) - set(labels)
    return Listing(
        names,
        images,
        labels,
        read_label,
        label_mend="every image needs a mask of training ids; unpack the sem_seg archive, or remove the image",
        strays=tuple(sorted(strays)),
    )


class BDD100K(Pairs):
    """The images of one split, sorted by name, with their semantic masks as training ids.

    The legacy folders `seg/images` and `seg/labels` count where there is no `images/10k`.

    Raises DataError on construction for a missing folder, an empty split or an image without label; on reading for
    whatever is wrong with the two files.
    """

    def __init__(self, root: str | Path, split: str = "train"):
        super().__init__(listing(root, split))
