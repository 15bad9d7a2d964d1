"""The 19 Cityscapes training classes, their colours, and the tables from each dataset's label ids to them."""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from tmt.errors import DataError

IGNORE = 255
UNKNOWN = 254  # what an id without a row becomes on its way to an error; no class has it

CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip

# The colours of the Cityscapes scripts, so that pictures look the way readers of papers expect.
PALETTE = np.array(
    [
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
        (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
        (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
    ],
    dtype=np.uint8,
)  # fmt: skip
PALETTE.setflags(write=False)


@dataclass(frozen=True, eq=False)
class LabelSet:
    """The classes of a dataset in the order of their training ids; `len` of it is K. Equal sets have equal names."""

    names: tuple[str, ...]
    palette: np.ndarray  # (K, 3) uint8, RGB

    def __post_init__(self) -> None:
        if self.palette.shape != (len(self.names), 3) or self.palette.dtype != np.uint8:
            raise DataError(
                f"LabelSet: palette must be uint8 of shape {(len(self.names), 3)}, got {self.palette.dtype} "
                f"{self.palette.shape}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelSet) and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)


CITYSCAPES19 = LabelSet(CLASSES, PALETTE)

TABLES = Path(__file__).parent / "tables"


@cache
def _rows(dataset: str) -> tuple[dict[str, str], ...]:
    """The rows of a package table `tables/<dataset>.csv`."""
    path = TABLES / f"{dataset}.csv"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in TABLES.glob("*.csv")))
        raise DataError(f"labels: dataset must be one of {names}, got {dataset!r}")
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


@cache
def lookup_table(dataset: str, column: str = "train_id") -> np.ndarray:
    """Training id of each label id of `dataset`, uint8 (256,); ids outside the table give `IGNORE`.

    `column` names the mapping: `train_id`, or `strict` / `broad` for the Mapillary tables. Raises DataError for an
    unknown dataset or column.
    """
    rows = _rows(dataset)
    if column not in rows[0]:
        raise DataError(f"labels: column must be one of {', '.join(list(rows[0])[2:])} for {dataset}, got {column!r}")
    table = np.full(256, IGNORE, dtype=np.uint8)
    for row in rows:
        table[int(row["id"])] = int(row[column])
    table.setflags(write=False)
    return table


@cache
def unchanged() -> np.ndarray:
    """The table of labels that hold training ids already, uint8 (256,)."""
    table = np.arange(256, dtype=np.uint8)
    table.setflags(write=False)
    return table


def label_names(dataset: str) -> list[str]:
    """The names in the table of `dataset`, by row."""
    return [row["name"] for row in _rows(dataset)]


@cache
def name_ids(dataset: str) -> dict[str, int]:
    """The label ids in the table of `dataset` by their names."""
    return {row["name"]: int(row["id"]) for row in _rows(dataset)}


def table_colours(dataset: str) -> tuple[list[tuple[int, ...]], list[str]]:
    """The colours in the table of `dataset`, red, green and blue, and the names that have them, by row."""
    rows = _rows(dataset)
    return [tuple(int(row[one]) for one in ("red", "green", "blue")) for row in rows], label_names(dataset)


@cache
def table_classes(dataset: str, column: str = "train_id") -> LabelSet:
    """The classes of the table of `dataset` by a column of training ids, each named and coloured by its first row."""
    colours, names = table_colours(dataset)
    first: dict[int, int] = {}
    for place, row in enumerate(_rows(dataset)):
        first.setdefault(int(row[column]), place)
    places = [first[train] for train in sorted(first) if train != IGNORE]
    return LabelSet(tuple(names[i] for i in places), np.array([colours[i] for i in places], np.uint8))


@cache
def known_ids(dataset: str) -> np.ndarray:
    """Which label ids the table of `dataset` holds, bool (256,)."""
    known = np.zeros(256, dtype=bool)
    known[[int(row["id"]) for row in _rows(dataset)]] = True
    known.setflags(write=False)
    return known


@cache
def known_train_ids(classes: int = len(CLASSES)) -> np.ndarray:
    """Which values a label of training ids may hold: those of the classes and `IGNORE`, bool (256,)."""
    known = np.zeros(256, dtype=bool)
    known[:classes] = True
    known[IGNORE] = True
    known.setflags(write=False)
    return known


def to_train_ids(label: np.ndarray, table: np.ndarray, known: np.ndarray, where: str, mend: str) -> np.ndarray:
    """Training ids (H, W) uint8 of a label (H, W) uint8 by a table (256,); raises DataError as `check_ids` does."""
    train_ids = np.where(known, table, np.uint8(UNKNOWN)).take(label)  # one pass looks up and checks
    if (train_ids == UNKNOWN).any():
        check_ids(label, known, where, mend)
    return train_ids


def check_ids(label: np.ndarray, known: np.ndarray, where: str, mend: str) -> None:
    """Raises DataError, naming the values and how many pixels hold them, if `label` (H, W) has ids not in `known`."""
    counts = np.bincount(label.ravel(), minlength=256)
    bad = np.flatnonzero((counts > 0) & ~known)
    if bad.size:
        values = ", ".join(str(value) for value in bad[:8]) + (", …" if bad.size > 8 else "")
        raise DataError(f"{where}: label ids must be in the table, got {values} ({counts[bad].sum()} pixels); {mend}")


def colourise(label: np.ndarray, label_set: LabelSet = CITYSCAPES19) -> np.ndarray:
    """Training ids (H, W) uint8 to their colours (H, W, 3) uint8; `IGNORE` is black."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(label_set)] = label_set.palette
    return colours[label]


def default_colour(train: int) -> tuple[int, ...]:
    """A class's colour where the table gives none: those of Cityscapes, then evenly spread ones."""
    if train < len(PALETTE):
        return tuple(int(channel) for channel in PALETTE[train])
    return (train * 67 % 256, train * 131 % 256, train * 199 % 256)


def with_default_colours(names: tuple[str, ...]) -> LabelSet:
    """Classes of these names, each in its default colour."""
    return LabelSet(names, np.array([default_colour(i) for i in range(len(names))], dtype=np.uint8))
