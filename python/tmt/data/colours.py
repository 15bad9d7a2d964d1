"""Labels that are pictures: each class has a colour."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tmt.data.decoding import to_rgb
from tmt.data.files import read_ids
from tmt.data.labels import lookup_table, table_colours
from tmt.errors import DataError


class ColourTable(NamedTuple):
    """The training ids of colours."""

    colours: np.ndarray  # (n,) uint32, 0xRRGGBB, sorted
    train_ids: np.ndarray  # (n,) uint8


def colour_table(rows: Iterable[tuple[tuple[int, ...], int, str]]) -> ColourTable:
    """The table of rows of a colour, a training id and where that is said.

    Raises DataError where one colour stands for two training ids.
    """
    found: dict[int, tuple[int, str]] = {}
    for colour, train, where in rows:
        packed = (colour[0] << 16) + (colour[1] << 8) + colour[2]
        other, place = found.setdefault(packed, (train, where))
        if other != train:
            raise DataError(
                f"{where}: colour must be of one class where labels are colours, got {shown(packed)} as in {place}; "
                "change one, or save labels as ids"
            )
    ordered = sorted(found)
    return ColourTable(np.array(ordered, np.uint32), np.array([found[one][0] for one in ordered], np.uint8))


def package_colours(name: str) -> ColourTable:
    """The table of a dataset whose labels are colours, `tables/<name>.csv`."""
    colours, names = table_colours(name)
    trains = lookup_table(name)[: len(names)].tolist()
    return colour_table(zip(colours, trains, names, strict=True))


def read_colours(path: Path, table: ColourTable, mend: str) -> np.ndarray:
    """Training ids (H, W) uint8 of a label that is an RGB PNG, with a palette or without.

    Raises DataError for any other file or colour.
    """
    picture = read_ids(path, ("RGB", "P"), mend)
    pixels = picture.pixels if picture.palette is None else to_rgb(picture, path)[0]
    return decode_colours(pixels, table, path, mend)


def decode_colours(pixels: np.ndarray, table: ColourTable, path: Path, mend: str) -> np.ndarray:
    """Training ids (H, W) uint8 of colours (H, W, 3) uint8. Raises DataError for the first that is not in the table."""
    red, green, blue = (pixels[..., i].astype(np.uint32) for i in range(3))
    packed = (red << 16) | (green << 8) | blue
    places = np.searchsorted(table.colours, packed).clip(max=len(table.colours) - 1)
    if (wrong := table.colours[places] != packed).any():
        row, column = np.unravel_index(int(wrong.argmax()), wrong.shape)
        raise DataError(
            f"{path}: label colours must be in the table, got {shown(int(packed[row, column]))} at row {row}, column "
            f"{column} ({wrong.sum()} pixels of unknown colours); {mend}"
        )
    return table.train_ids[places]


def shown(packed: int) -> str:
    """A colour 0xRRGGBB as (red, green, blue)."""
    return str((packed >> 16, packed >> 8 & 255, packed & 255))
