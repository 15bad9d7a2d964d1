"""A dataset of one's own: `images/<split>/**`, `labels/<split>/**` of the same names, and `classes.csv`.

`classes.csv` has a row for each id that a label may hold: `id`, 0 to 255, `name` and `train_id`, 255 or nothing for an
id that is ignored; rows may share a training id, whose class is then called after the first of them. Training ids are 0
to K - 1, with K at most 254. The id 255 means "no label" where it has no row. The columns `red`, `green` and `blue` may
give the ids' colours, with which labels may be RGB pictures as well.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tmt.data.class_table import read_rows, train_ids
from tmt.data.colours import ColourTable, colour_table, decode_colours
from tmt.data.files import (
    IMAGE_SUFFIXES,
    Listing,
    Pairs,
    read_bytes,
    read_ids,
    require_some,
    walk_files,
    walk_images,
)
from tmt.data.labels import IGNORE, LabelSet, to_train_ids
from tmt.data.png import check_png, decode_deep, is_deep_grey
from tmt.errors import DataError

COLUMNS = ("id", "name", "train_id")
LABELS = "labels are PNGs of class ids, grey or palette, or RGB ones in the colours of classes.csv"


@dataclass(frozen=True)
class Classes:
    """What `classes.csv` says."""

    label_set: LabelSet
    table: np.ndarray  # (256,) uint8, training id of each id
    known: np.ndarray  # (256,) bool, ids that have a row
    colours: ColourTable | DataError | None  # for labels that are RGB pictures; None where the table has no colours


def read_classes(path: Path) -> Classes:
    """The table of a dataset of one's own. Raises DataError, naming the line, for whatever is wrong with it."""
    rows = read_rows(path, COLUMNS)
    table, known = np.full(256, IGNORE, np.uint8), np.zeros(256, bool)
    found, label_set = train_ids(rows, path)
    for row, train in zip(rows, found, strict=True):
        key = row.number("id")
        if known[key]:
            raise DataError(f"{row.where}: id must be in one line only, got {key} again; remove one of the two")
        known[key], table[key] = True, train
    known[IGNORE] = True
    coloured = [(row.colour, train, row.where) for row, train in zip(rows, found, strict=True) if row.has_colour]
    return Classes(label_set, table, known, _colours([(c, train, where) for c, train, where in coloured if c]))


def _colours(rows: list[tuple[tuple[int, ...], int, str]]) -> ColourTable | DataError | None:
    """What is wrong with the colours matters where a label is read by them only."""
    try:
        return colour_table(rows) if rows else None
    except DataError as error:
        return error


def read_label(path: Path, classes: Classes) -> np.ndarray:
    """Training ids (H, W) uint8 of a PNG of ids, grey or palette, or of an RGB one in the colours of the table.

    Raises DataError for any other file, id or colour.
    """
    data = read_bytes(path)
    if is_deep_grey(data):
        pixels = _deep_ids(data, path)
    else:
        picture = read_ids(path, ("L", "P", "RGB"), LABELS, data)
        if picture.mode == "RGB":
            return _by_colour(picture.pixels, path, classes.colours)
        pixels = picture.pixels
    mend = "add the id to classes.csv, with train_id 255 if it is to be ignored"
    return to_train_ids(pixels, classes.table, classes.known, str(path), mend)


def _deep_ids(data: bytes, path: Path) -> np.ndarray:
    """The ids (H, W) uint8 of a 16-bit grey PNG. Raises DataError for ids above 255."""
    pixels = decode_deep(data, check_png(data, path))
    if (high := pixels > 255).any():
        row, column = np.unravel_index(int(high.argmax()), high.shape)
        raise DataError(
            f"{path}: label ids must be 0..255, got {pixels[row, column]} at row {row}, column {column} ({high.sum()} "
            "such pixels); number the classes anew, or is it a file of instances?"
        )
    return pixels.astype(np.uint8)


def _by_colour(pixels: np.ndarray, path: Path, table: ColourTable | DataError | None) -> np.ndarray:
    if isinstance(table, DataError):
        raise table
    if table is None:
        raise DataError(
            f"{path}: label must hold class ids, got an RGB picture; save ids, or give classes.csv the columns red, "
            "green and blue"
        )
    return decode_colours(
        pixels, table, path, "add the colour to classes.csv, with train_id 255 if it is to be ignored"
    )


def listing(root: str | Path, split: str, labelled: bool = True) -> Listing:
    """The split's files, sorted by name. Raises DataError for a missing folder, a wrong table, an empty split, and two
    images of one name; without `labelled` neither labels nor table need be there."""
    root = Path(root)
    folder, masks = root / "images" / split, root / "labels" / split
    for needed in (folder, masks) if labelled else (folder,):
        if not split or not needed.is_dir():
            raise DataError(
                f"folders: folder {needed} must exist, got no such folder; the layout is images/<split>, "
                "labels/<split> and classes.csv"
            )
    kinds = ", ".join(IMAGE_SUFFIXES)
    images = require_some(walk_images(folder), f"folders: {folder} must hold {kinds}", "add images")
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in images]
    labels = [masks / f"{name}.png" for name in names]
    if not labelled:
        return Listing(names, images, labels, _no_label, image_mend="restore it")
    classes = read_classes(root / "classes.csv")
    return Listing(
        names,
        images,
        labels,
        partial(read_label, classes=classes),
        label_mend="every image needs a label PNG of the same name; add it, or remove the image",
        label_set=classes.label_set,
        ids=classes.table,
        strays=tuple(sorted(set(walk_files(masks, (".png",))) - set(labels))),
    )


def _no_label(path: Path) -> np.ndarray:
    raise DataError(f"{path}: must not be read, the images are said to have no labels; say that they have some")


class Folders(Pairs):
    """The images of one split of a dataset of one's own, sorted by name, with their labels as training ids.

    A split is whatever `images` has a folder for. Names are relative to it, without ending: `day/0001`.

    Raises DataError on construction for a missing folder, a wrong `classes.csv`, an empty split, two images of one name
    or an image without label; on reading for whatever is wrong with the two files.
    """

    def __init__(self, root: str | Path, split: str = "train"):
        super().__init__(listing(root, split))
