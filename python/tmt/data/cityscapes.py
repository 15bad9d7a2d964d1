"""Cityscapes: `leftImg8bit/<split>/<city>/*_leftImg8bit.png` with `gtFine/<split>/<city>/*_gtFine_<kind>.png`."""

from pathlib import Path

import numpy as np

from tmt.data.files import Sample, read_pair, read_pixels, require_folder, require_some
from tmt.data.labels import check_ids, known_ids, known_train_ids, lookup_table
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
        check_ids(label, known_train_ids(), str(path), "labelTrainIds hold 0-18 and 255; is it a labelIds file?")
        return label
    check_ids(label, known_ids("cityscapes"), str(path), "labelIds hold 0-33; is it a labelTrainIds file?")
    return lookup_table("cityscapes")[label]


class Cityscapes:
    """The images of one split, sorted by city and name, with their fine labels as training ids.

    Raises DataError on construction for a missing folder, an empty split or an image without label; on reading for
    whatever is wrong with the two files.
    """

    def __init__(self, root: str | Path, split: str = "train"):
        if split not in SPLITS:
            raise DataError(f"cityscapes: split must be one of {', '.join(SPLITS)}, got {split!r}")
        images = require_folder(Path(root) / "leftImg8bit" / split, "cityscapes")
        labels = require_folder(Path(root) / "gtFine" / split, "cityscapes")
        found = sorted(images.glob(f"*/*{IMAGE_SUFFIX}"))
        self.images = require_some(found, f"cityscapes: {images} must hold <city>/*{IMAGE_SUFFIX}", "check the root")
        self.names = [path.name.removesuffix(IMAGE_SUFFIX) for path in self.images]
        self.labels = [self._find_label(labels / path.parent.name, path) for path in self.images]

    @staticmethod
    def _find_label(city: Path, image: Path) -> Path:
        stem = image.name.removesuffix(IMAGE_SUFFIX)
        for suffix in LABEL_SUFFIXES:
            if (city / (stem + suffix)).is_file():
                return city / (stem + suffix)
        raise DataError(
            f"{image}: image must have a label {city / stem}{{{','.join(LABEL_SUFFIXES)}}}, got neither; "
            "restore the label or remove the image"
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return read_pair(self.images[index], self.labels[index], self.names[index], read_label)
