"""Every dataset by its name: its reader, and where its files are expected."""

from pathlib import Path

from tmt.data import bdd100k, cityscapes, folders, gtav, mapillary, synthia
from tmt.data.files import Dataset, Listing
from tmt.errors import DataError

DATASETS = ("cityscapes", "bdd100k", "mapillary", "gtav", "synthia", "folders")


def open_dataset(
    dataset: str, root: str | Path, split: str, *, mapping: str = "strict", version: str | None = None
) -> Dataset:
    """The reader of a dataset's on-disk layout, one of `DATASETS`; `folders` is a dataset of one's own.

    `mapping` (strict, broad) and `version` (v1.2, v2.0, None: the newest there) are Mapillary's; the others have none.
    Raises DataError for another name, and what the reader raises.
    """
    match dataset:
        case "cityscapes":
            return cityscapes.Cityscapes(root, split)
        case "bdd100k":
            return bdd100k.BDD100K(root, split)
        case "mapillary":
            return mapillary.Mapillary(root, split, mapping, version)
        case "gtav":
            return gtav.GTAV(root, split)
        case "synthia":
            return synthia.Synthia(root, split)
        case "folders":
            return folders.Folders(root, split)
    raise DataError(f"open_dataset: dataset must be one of {', '.join(DATASETS)}, got {dataset!r}")


def list_dataset(
    dataset: str, root: str | Path, split: str, *, mapping: str = "strict", version: str | None = None
) -> Listing:
    """Where `open_dataset` of the same arguments looks for its files, whether they are there or not.

    Raises DataError for another name, and where it cannot be known: a folder, list or table that is missing or wrong.
    """
    match dataset:
        case "cityscapes":
            return cityscapes.listing(root, split)
        case "bdd100k":
            return bdd100k.listing(root, split)
        case "mapillary":
            return mapillary.listing(root, split, mapping, version)
        case "gtav":
            return gtav.listing(root, split)
        case "synthia":
            return synthia.listing(root, split)
        case "folders":
            return folders.listing(root, split)
    raise DataError(f"list_dataset: dataset must be one of {', '.join(DATASETS)}, got {dataset!r}")
