"""LabelMeFacade: `images/*.jpg` with `labels/*.png` in colours, and the lists `train.txt` and `test.txt`.

Layout, lists and colours are those of github.com/cvjena/labelmefacade. It has no validation split: `val` is the list
`val.txt` where someone made one, else `test.txt`.
"""

from functools import partial
from pathlib import Path

import numpy as np

from tmt.data.colours import ColourTable, package_colours, read_colours
from tmt.data.files import Listing, Pairs, require_folder
from tmt.data.labels import table_classes
from tmt.data.lists import read_lines
from tmt.errors import DataError

SPLITS = ("train", "val", "test")


def read_label(path: Path, table: ColourTable) -> np.ndarray:
    """Training ids (H, W) uint8. Raises DataError for a file that is no PNG of the release's nine colours."""
    return read_colours(path, table, "colours are those of the release's README; copies that resample change them")


def list_of(root: Path, split: str) -> Path:
    """The file that names the images of a split."""
    own = root / f"{split}.txt"
    return root / "test.txt" if split == "val" and not own.is_file() else own


def listing(root: str | Path, split: str) -> Listing:
    """The files that the split's list names, in its order. Raises DataError for a missing folder or list."""
    if split not in SPLITS:
        raise DataError(f"labelmefacade: split must be one of {', '.join(SPLITS)}, got {split!r}")
    root = Path(root)
    images, masks = (require_folder(root / kind, "labelmefacade") for kind in ("images", "labels"))
    path = list_of(root, split)
    names = [Path(line).stem for _, line in read_lines(path)]
    return Listing(
        names,
        [images / f"{name}.jpg" for name in names],
        [masks / f"{name}.png" for name in names],
        partial(read_label, table=package_colours("labelmefacade")),
        image_mend=f"{path.name} lists it; get the release again, or take it off the list",
        label_set=table_classes("labelmefacade"),
    )


class LabelMeFacade(Pairs):
    """The images of one split, in the order of its list, with their labels as training ids; `various` is ignored.

    Raises DataError on construction for a missing folder or list, and for an image or label that is missing; on reading
    for whatever is wrong with the two files.
    """

    def __init__(self, root: str | Path, split: str = "train"):
        super().__init__(listing(root, split))
