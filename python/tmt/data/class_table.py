"""Tables of classes as CSV files: what `classes.csv` of a dataset of one's own and class maps have in common.

Each row says something of one class or id; `name` and `train_id` say which class it belongs to, `train_id` 255 or
nothing that it is ignored. Without a column `train_id` classes are numbered as their names come first, and a row
without a name is ignored. The columns `red`, `green` and `blue` may give colours.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tmt.data.files import read_bytes
from tmt.data.labels import IGNORE, UNKNOWN, LabelSet, default_colour
from tmt.errors import DataError

COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    values: dict[str, str]
    """What its columns hold, stripped."""
    where: str
    """File and line, for messages."""

    def number(self, column: str, default: str = "") -> int:
        """The number in a column. Raises DataError unless it is one of 0..255."""
        text = self.values.get(column, "") or default
        if not (text.isascii() and text.isdigit() and int(text) < 256):
            raise DataError(f"{self.where}: {column} must be a whole number 0..255, got {text!r}; correct the line")
        return int(text)

    @property
    def colour(self) -> tuple[int, ...] | None:
        """Red, green and blue; None in a table without these columns."""
        return tuple(self.number(one) for one in COLOURS) if all(one in self.values for one in COLOURS) else None

    @property
    def has_colour(self) -> bool:
        """Whether one of the three is given."""
        return any(self.values.get(one) for one in COLOURS)


def read_rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """The rows of a table. Raises DataError for a file that cannot be read, is no CSV, or lacks one of the columns."""
    if not path.exists():
        raise DataError(
            f"{path}: table of classes must exist, got no such file; write it, with a line "
            f"{','.join(columns)} and one for each id or class"
        )
    try:
        text = read_bytes(path, "table of classes").decode("utf-8-sig")
        lines = list(csv.DictReader(io.StringIO(text)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: must be a CSV file in UTF-8, got {error}; save it as such") from error
    found = lines[0] if lines else {}
    if missing := [name for name in columns if name not in found]:
        raise DataError(f"{path}: must have the columns {', '.join(columns)} and rows, got none of {missing[0]}")
    return [
        Row({name: (value or "").strip() for name, value in line.items() if isinstance(name, str)}, f"{path}, line {i}")
        for i, line in enumerate(lines, start=2)
    ]


def train_ids(rows: Sequence[Row], path: Path) -> tuple[list[int], LabelSet]:
    """The training id of each row, 255 where it is ignored, and the classes; each is called after its first row.

    Raises DataError unless the training ids are 0..K - 1, K at most 254, and each class has a name of its own.
    """
    found = _given(rows) if rows and "train_id" in rows[0].values else _counted(rows)
    first: dict[int, Row] = {}
    for row, train in zip(rows, found, strict=True):
        if train != IGNORE:
            first.setdefault(train, row)
    names = {train: row.values["name"] or f"class {train}" for train, row in first.items()}
    check_train_ids(names, path)
    ordered = sorted(first)
    palette = np.array([first[train].colour or default_colour(train) for train in ordered], dtype=np.uint8)
    return found, LabelSet(tuple(names[train] for train in ordered), palette)


def _given(rows: Sequence[Row]) -> list[int]:
    return [row.number("train_id", str(IGNORE)) for row in rows]


def _counted(rows: Sequence[Row]) -> list[int]:
    """Training ids by the order in which the names come first."""
    names = [row.values["name"] for row in rows]
    order = {name: i for i, name in enumerate(dict.fromkeys(name for name in names if name))}
    return [order.get(name, IGNORE) for name in names]


def check_train_ids(names: dict[int, str], path: Path) -> None:
    """Raises DataError unless the training ids are 0..K - 1 and each class has a name of its own."""
    if sorted(names) != list(range(len(names))) or not names or len(names) >= UNKNOWN + 1:
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
