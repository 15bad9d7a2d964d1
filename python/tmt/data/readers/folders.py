"""A dataset of one's own: `images/<split>/**`, `labels/<split>/**` of the same names, and `classes.csv`.

`classes.csv` has a row for each id that a label may hold: `id`, `name` and `train_id`, 255 or nothing for an id that is
ignored; rows may share a training id, whose class is then called after the first of them. Training ids are 0 to K - 1,
with K at most 254. The columns `red`, `green` and `blue` may give the classes' colours.
"""

import csv
import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tmt.data.files import (
    IMAGE_SUFFIXES,
    Listing,
    Pairs,
    read_bytes,
    read_pixels,
    require_some,
    walk_files,
    walk_images,
)
from tmt.data.labels import IGNORE, UNKNOWN, LabelSet, default_colour, to_train_ids
from tmt.errors import DataError

COLUMNS = ("id", "name", "train_id")
COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class Classes:
    """What `classes.csv` says."""

    label_set: LabelSet
    table: np.ndarray  # (256,) uint8, training id of each id
    known: np.ndarray  # (256,) bool, ids that have a row


def read_classes(path: Path) -> Classes:
    """The table of a dataset of one's own. Raises DataError, naming the line, for whatever is wrong with it."""
    try:
        text = read_bytes(path, "table of classes").decode("utf-8-sig")
        lines = list(csv.DictReader(io.StringIO(text)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: must be a CSV file in UTF-8, got {error}; save it as such") from error
    columns = lines[0] if lines else {}
    if missing := [name for name in COLUMNS if name not in columns]:
        raise DataError(f"{path}: must have the columns {', '.join(COLUMNS)} and rows, got none of {missing[0]}")
    coloured = all(name in columns for name in COLOURS)
    table, known = np.full(256, IGNORE, np.uint8), np.zeros(256, bool)
    names: dict[int, str] = {}
    colours: dict[int, tuple[int, ...]] = {}
    for number, line in enumerate(lines, start=2):
        where = f"{path}, line {number}"
        key = whole(line["id"], where, "id")
        train = whole(line["train_id"] or str(IGNORE), where, "train_id")
        if known[key]:
            raise DataError(f"{where}: id must be in one line only, got {key} again; remove one of the two")
        known[key], table[key] = True, train
        if train != IGNORE and train not in names:
            names[train] = (line["name"] or "").strip() or f"class {train}"
            colours[train] = tuple(whole(line[c], where, c) for c in COLOURS) if coloured else default_colour(train)
    check_train_ids(names, path)
    ordered = sorted(names)
    palette = np.array([colours[train] for train in ordered], dtype=np.uint8)
    return Classes(LabelSet(tuple(names[train] for train in ordered), palette), table, known)


def whole(text: str | None, where: str, column: str) -> int:
    """A number of the table. Raises DataError unless it is one of 0..255."""
    text = (text or "").strip()
    if not (text.isascii() and text.isdigit() and int(text) < 256):
        raise DataError(f"{where}: {column} must be a whole number 0..255, got {text!r}; correct the line")
    return int(text)


def check_train_ids(names: dict[int, str], path: Path) -> None:
    """Raises DataError unless the training ids are 0..K - 1 and each class has a name of its own."""
    if sorted(names) != list(range(len(names))) or not names or UNKNOWN in names:
        raise DataError(
            f"{path}: train_id must take each of 0..K-1, at most {UNKNOWN - 1}, and {IGNORE} for what is ignored, "
            f"got {sorted(names)}; number the classes without holes"
        )
    taken: dict[str, int] = {}
    for train, name in sorted(names.items()):
        if name in taken:
            raise DataError(
                f"{path}: names must differ, got {name!r} for train ids {taken[name]} and {train}; rename one"
            )
        taken[name] = train
    if len(names) == 1:
        raise DataError(
            f"{path}: classes must be two or more, got {names[0]!r} alone, which every prediction meets; "
            "give what it is told from a train_id of its own instead of 255"
        )


def read_label(path: Path, classes: Classes) -> np.ndarray:
    """Training ids (H, W) uint8 of an 8-bit greyscale or palette PNG. Raises DataError for any other file or id."""
    label = read_pixels(path, ("L", "P"), "labels are 8-bit greyscale or palette PNGs of class ids")
    mend = "add the id to classes.csv, with train_id 255 if it is to be ignored"
    return to_train_ids(label, classes.table, classes.known, str(path), mend)


def listing(root: str | Path, split: str) -> Listing:
    """The split's files, sorted by name. Raises DataError for a missing folder, a wrong table, an empty split, and two
    images of one name."""
    root = Path(root)
    for folder in (root / "images" / split, root / "labels" / split):
        if not split or not folder.is_dir():
            raise DataError(
                f"folders: folder {folder} must exist, got no such folder; the layout is images/<split>, "
                "labels/<split> and classes.csv"
            )
    folder, masks = root / "images" / split, root / "labels" / split
    classes = read_classes(root / "classes.csv")
    kinds = ", ".join(IMAGE_SUFFIXES)
    images = require_some(walk_images(folder), f"folders: {folder} must hold {kinds}", "add images")
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in images]
    labels = [masks / f"{name}.png" for name in names]
    return Listing(
        names,
        images,
        labels,
        partial(read_label, classes=classes),
        label_mend="every image needs a label PNG of the same name; add it, or remove the image",
        label_set=classes.label_set,
        strays=tuple(sorted(set(walk_files(masks, (".png",))) - set(labels))),
    )


class Folders(Pairs):
    """The images of one split of a dataset of one's own, sorted by name, with their labels as training ids.

    A split is whatever `images` has a folder for. Names are relative to it, without ending: `day/0001`.

    Raises DataError on construction for a missing folder, a wrong `classes.csv`, an empty split, two images of one name
    or an image without label; on reading for whatever is wrong with the two files.
    """

    def __init__(self, root: str | Path, split: str = "train"):
        super().__init__(listing(root, split))
