"""From the classes of a dataset to those of an experiment, so that datasets of different classes meet.

A class map is a CSV file with a row for each class of the dataset: `class`, its name there, or `id`, its number in the
label files of `folders` and else its training id; and `name`, the class of the experiment that it becomes, nothing
where it is ignored. Classes are numbered as their names come first, or as a column `train_id` says; the columns `red`,
`green` and `blue` may give their colours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from tmt.data.class_table import Row, read_rows, train_ids
from tmt.data.files import Listing
from tmt.data.labels import IGNORE, TABLES, LabelSet
from tmt.errors import DataError
from tmt.settings.files import hint

MAPS = TABLES / "maps"


@dataclass(frozen=True)
class ClassMap:
    """What becomes of a dataset's classes."""

    label_set: LabelSet
    """Of the experiment."""
    table: np.ndarray
    """(256,) uint8, the experiment's training id of each of the dataset's."""


def class_maps() -> list[str]:
    """Names of the class maps that come with the package."""
    return sorted(path.stem for path in MAPS.glob("*.csv"))


def find_class_map(name: str) -> Path:
    """The file of a class map: one of the package's by its name, else a path. Raises DataError for neither."""
    if name in class_maps():
        return MAPS / f"{name}.csv"
    if not Path(name).is_file():
        known = ", ".join(class_maps())
        raise DataError(f"{name}: class map must be a CSV file or one of {known}, got neither; check the path")
    return Path(name)


def read_class_map(name: str, label_set: LabelSet, dataset: str, ids: np.ndarray | None = None) -> ClassMap:
    """The class map of that name or path, for a dataset of the classes `label_set`.

    `ids` (256,) uint8 is the training id of each id that stands in the map; None: they are training ids themselves.
    Raises DataError for a wrong table, a class that the dataset has not, and one that the map forgets or doubles.
    """
    path = find_class_map(name)
    rows = read_rows(path, ("name",))
    by_id = "class" not in rows[0].values
    if by_id and "id" not in rows[0].values:
        raise DataError(f"{path}: must have a column class or id beside name, got neither; add one of them")
    given, experiment = train_ids(rows, path)
    table = np.full(256, IGNORE, np.uint8)
    said: dict[int, tuple[int, Row]] = {}
    for row, new in zip(rows, given, strict=True):
        old = _by_id(row, label_set, ids, new, dataset) if by_id else _by_name(row, label_set, dataset)
        _check_once(said.setdefault(old, (new, row)), new, row, old, label_set, by_id)
        table[old] = new
    _check_whole(path, label_set, dataset, [label_set.names[i] for i in range(len(label_set)) if i not in said])
    return ClassMap(experiment, table)


def _by_name(row: Row, label_set: LabelSet, dataset: str) -> int:
    """The dataset's training id of a row."""
    name = row.values["class"]
    if name not in label_set.names:
        meant = hint(name, label_set.names) or f"; they are {', '.join(label_set.names)}"
        raise DataError(f"{row.where}: class must be one of {dataset}, got {name!r}{meant}")
    return label_set.names.index(name)


def _by_id(row: Row, label_set: LabelSet, ids: np.ndarray | None, new: int, dataset: str) -> int:
    number = row.number("id")
    train = number if ids is None else int(ids[number])
    if train >= len(label_set) and new != IGNORE:
        raise DataError(
            f"{row.where}: id must be of a class of {dataset}, got {number}, which has none; leave the name or "
            "train_id of this line empty"
        )
    return train if train < len(label_set) else IGNORE


def _check_once(before: tuple[int, Row], new: int, row: Row, old: int, label_set: LabelSet, by_id: bool) -> None:
    """Raises DataError where two rows are of one class; by ids, several may be, as long as they say the same."""
    if before[1] is row or old == IGNORE or (by_id and before[0] == new):
        return
    raise DataError(
        f"{row.where}: class must be in one line, got {label_set.names[old]!r} again after {before[1].where}; "
        "remove one of the two"
    )


def _check_whole(path: Path, label_set: LabelSet, dataset: str, forgotten: Sequence[str]) -> None:
    if forgotten:
        raise DataError(
            f"{path}: class map must have a line for each class of {dataset}, got none for {', '.join(forgotten)}; "
            "add them, with nothing as name for what is to be ignored"
        )


def mapped(listing: Listing, classes: ClassMap) -> Listing:
    """A listing whose labels are of the experiment's classes."""
    read = partial(read_mapped, read=listing.read_label, table=classes.table)
    return replace(listing, read_label=read, label_set=classes.label_set, ids=None)


def read_mapped(path: Path, read: Callable[[Path], np.ndarray], table: np.ndarray) -> np.ndarray:
    """The experiment's training ids (H, W) uint8 of a label file."""
    return table[read(path)]


def reordered(listing: Listing, names: Sequence[str]) -> Listing:
    """A listing whose classes, of these names, come in this order."""
    old = listing.label_set
    order = [old.names.index(name) for name in names]
    table = np.full(256, IGNORE, np.uint8)
    table[order] = np.arange(len(order))
    return mapped(listing, ClassMap(LabelSet(tuple(names), old.palette[order]), table))
