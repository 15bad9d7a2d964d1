"""SYNTHIA-RAND-CITYSCAPES: `RGB/%07d.png` with 16-bit `GT/LABELS/%07d.png`, whose first channel is the class."""

import re
from collections import Counter
from pathlib import Path

import kornia_rs.io
import numpy as np

from tmt.data.files import Listing, Pairs, list_files, list_images, read_bytes, require_folder, require_some
from tmt.data.labels import known_ids, lookup_table, to_train_ids
from tmt.data.png import RGB, check_png, is_png
from tmt.errors import DataError

SPLITS = ("train", "val")
VAL_SHARE = 0.3
SPLIT_SEED = 0  # of the rule used where there is no list
OTHER_IDS = (
    "in SYNTHIA-SEQS and other releases ids mean other classes, 12 lane marking instead of motorcycle: "
    "use SYNTHIA-RAND-CITYSCAPES as it was released"
)


def split_numbers(names: list[str], split: str) -> list[str]:
    """The part of the sorted `names` that is `split` by a rule of our own, since the dataset has no official split.

    Position i of numpy's `default_rng(0).permutation(len(names))` is validation if i < 30 % of them, rounded, else
    training: the same for everyone who has the same images.
    """
    order = np.random.default_rng(SPLIT_SEED).permutation(len(names))
    boundary = round(VAL_SHARE * len(names))
    chosen = order[:boundary] if split == "val" else order[boundary:]
    return [names[i] for i in sorted(chosen)]


def read_list(path: Path) -> list[str]:
    """The names in a split list: one image a line, a number or a file name with or without folders and `.png`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: must be a text file, got {error}; copy or make it again") from error
    names = [Path(line.strip()).stem for line in lines if line.strip()]
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{path}: must list each image once, got {name} twice; remove a line")
    return require_some(sorted(names), f"{path}: must list one image name a line", "remove the file to use the rule")


def decode_label(data: bytes, path: Path) -> np.ndarray:
    """The first channel, uint16 (H, W), of a 16-bit RGB PNG. Raises DataError for any other file."""
    header = check_png(data, path) if is_png(data) else None
    if header is None or (header.depth, header.colour) != (16, RGB):
        got = f"{header.depth} bits of colour type {header.colour}" if header else "another format"
        raise DataError(
            f"{path}: must be a 16-bit RGB PNG, got {got}; use GT/LABELS as released: neither GT/COLOR nor a copy "
            "converted to 8 bits holds the ids"
        )
    try:  # not pillow, which keeps only 8 of the 16 bits
        return kornia_rs.io.decode_image_png_u16(data, (header.height, header.width), "rgb")[..., 0]
    except Exception as error:  # the library raises nothing more special
        raise DataError(f"{path}: must be a complete 16-bit RGB PNG, got {error}; copy or make it again") from error


def read_label(path: Path) -> np.ndarray:
    """Training ids (H, W) uint8 from the first channel of a 16-bit RGB file; the second one counts instances.

    Raises DataError for an unreadable file, one of 8 bits or another number of channels, and classes outside the table.
    """
    classes, mend = decode_label(read_bytes(path), path), "a SYNTHIA label holds 0-22 in its first channel"
    if (highest := classes.max(initial=0)) > 255:
        raise DataError(f"{path}: label ids must be in the table, got {highest}; {mend}")
    return to_train_ids(classes.astype(np.uint8), lookup_table("synthia"), known_ids("synthia"), str(path), mend)


def choose(root: Path, names: list[str], split: str) -> list[str]:
    """The names of a split: those of its list, or of the rule where there is no list."""
    lists = [root / f"{which}.txt" for which in SPLITS]
    present = [path for path in lists if path.is_file()]
    if not present:
        return require_some(split_numbers(names, split), f"synthia: split {split} must hold images", "add images")
    if len(present) != len(lists):
        raise DataError(
            f"synthia: {root} must hold both train.txt and val.txt or neither, got {present[0].name}; "
            "add the other list, or remove this one to use the rule"
        )
    return read_list(root / f"{split}.txt")


def require_release(root: Path, folder: Path) -> None:
    """Raises DataError for what shows by its names that it is another release of SYNTHIA."""
    if (folder / "Stereo_Left").exists() or (folder / "Stereo_Right").exists():
        raise DataError(f"synthia: {folder} must hold *.png, got SYNTHIA-SEQS' folders of a stereo camera; {OTHER_IDS}")
    if any("SYNTHIA-SEQS" in part.upper() for part in root.resolve().parts):
        raise DataError(f"synthia: root must not lie in a folder called SYNTHIA-SEQS, got {root}; {OTHER_IDS}")
    for path in list_files(folder, (".png",)):
        if not re.fullmatch("[0-9]{7}", path.stem):
            raise DataError(f"{path}: images must be named by seven digits, got {path.stem}; {OTHER_IDS}")


def listing(root: str | Path, split: str) -> Listing:
    """The split's files, sorted by number. Raises DataError for a missing folder, an empty set and only one list."""
    if split not in SPLITS:
        raise DataError(f"synthia: split must be one of {', '.join(SPLITS)}, got {split!r}")
    root = Path(root)
    folder, masks = require_folder(root / "RGB", "synthia"), require_folder(root / "GT" / "LABELS", "synthia")
    require_release(root, folder)
    found = require_some(list_images(folder, (".png",)), f"synthia: {folder} must hold *.png", "check the root")
    known = {path.name for path in found}
    names = choose(root, [path.stem for path in found], split)
    return Listing(
        names,
        [folder / f"{name}.png" for name in names],
        [masks / f"{name}.png" for name in names],
        read_label,
        image_mend=f"{split}.txt lists it; unpack the archive again, or take it off the list",
        label_mend="every image needs a label; unpack the archive again, or remove the image",
        strays=tuple(path for path in list_files(masks, (".png",)) if path.name not in known),
    )


class Synthia(Pairs):
    """The images of one split, sorted by number, with their labels as training ids.

    The split is the list `train.txt` or `val.txt` in the root where both are there, else `split_numbers`.

    Raises DataError on construction for a missing folder, an empty set, only one of the lists, or a missing image or
    label; on reading for whatever is wrong with the two files.
    """

    def __init__(self, root: str | Path, split: str = "train"):
        super().__init__(listing(root, split))
