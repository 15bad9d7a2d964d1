"""Every dataset by its name: its reader, and where its files are expected."""

from pathlib import Path

from tmt.data.files import Dataset, Listing, readable
from tmt.data.readers import bdd100k, cityscapes, folders, gtav, mapillary, synthia
from tmt.errors import DataError

_LAYOUTS = {
    "cityscapes": (cityscapes.Cityscapes, cityscapes.listing),
    "bdd100k": (bdd100k.BDD100K, bdd100k.listing),
    "mapillary": (mapillary.Mapillary, mapillary.listing),
    "gtav": (gtav.GTAV, gtav.listing),
    "synthia": (synthia.Synthia, synthia.listing),
    "folders": (folders.Folders, folders.listing),
}
DATASETS = tuple(_LAYOUTS)


@readable()
def open_dataset(
    dataset: str, root: str | Path, split: str, *, mapping: str = "strict", version: str | None = None
) -> Dataset:
    """The reader of a dataset's on-disk layout, one of `DATASETS`; `folders` is a dataset of one's own.

    `mapping` (strict, broad) and `version` (v1.2, v2.0, None: the newest there) are Mapillary's; the others have none.
    Raises DataError for another name, and what the reader raises.
    """
    if dataset not in _LAYOUTS:
        raise DataError(f"open_dataset: dataset must be one of {', '.join(DATASETS)}, got {dataset!r}")
    reader, _ = _LAYOUTS[dataset]
    return reader(root, split, *_options(dataset, mapping, version))


@readable()
def list_dataset(
    dataset: str, root: str | Path, split: str, *, mapping: str = "strict", version: str | None = None
) -> Listing:
    """Where `open_dataset` of the same arguments looks for its files, whether they are there or not.

    Raises DataError for another name, and where it cannot be known: a folder, list or table that is missing or wrong.
    """
    if dataset not in _LAYOUTS:
        raise DataError(f"list_dataset: dataset must be one of {', '.join(DATASETS)}, got {dataset!r}")
    _, listing = _LAYOUTS[dataset]
    return listing(root, split, *_options(dataset, mapping, version))


def _options(dataset: str, mapping: str, version: str | None) -> tuple[str | None, ...]:
    """What a layout is told besides folder and split."""
    return (mapping, version) if dataset == "mapillary" else ()
