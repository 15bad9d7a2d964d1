"""BDD100K: `images/10k/<split>/*.jpg` with `labels/sem_seg/masks/<split>/*.png`, or the legacy `seg/` folders."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tmt.data.files import Sample, read_pair, read_pixels, require_files, require_folder, require_some
from tmt.data.labels import check_ids, known_train_ids
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
    label = read_pixels(path, ("L",), "use the semantic masks of training ids, not the colour maps or pan_seg")
    check_ids(label, known_train_ids(), str(path), "training ids are 0-18 and 255; is it BDD100K's raw encoding, 0-40?")
    return label


class BDD100K:
    """The images of one split, sorted by name, with their semantic masks as training ids.

    Raises DataError on construction for a missing folder, an empty split or an image without label; on reading for
    whatever is wrong with the two files.
    """

    def __init__(self, root: str | Path, split: str = "train"):
        if split not in SPLITS:
            raise DataError(f"bdd100k: split must be one of {', '.join(SPLITS)}, got {split!r}")
        root = Path(root)
        layout = LEGACY if (root / LEGACY.images).is_dir() else CURRENT
        images = require_folder(root / layout.images / split, "bdd100k")
        labels = require_folder(root / layout.labels / split, "bdd100k")
        self.images = require_some(sorted(images.glob("*.jpg")), f"bdd100k: {images} must hold *.jpg", "check the root")
        self.names = [path.stem for path in self.images]
        self.labels = require_files(
            [labels / (name + layout.label_suffix) for name in self.names],
            "every image needs a mask of training ids; unpack the sem_seg archive, or remove the image",
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return read_pair(self.images[index], self.labels[index], self.names[index], read_label)
