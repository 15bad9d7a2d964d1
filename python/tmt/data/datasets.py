"""Every dataset by its name: its reader, and where its files are expected."""

from collections.abc import Callable
from pathlib import Path

from tmt.data.class_maps import mapped, read_class_map, reordered
from tmt.data.files import Dataset, Listing, Pairs, readable
from tmt.data.labels import LabelSet
from tmt.data.lists import chosen
from tmt.data.readers import (
    bdd100k,
    camvid,
    cityscapes,
    folders,
    gtav,
    idd,
    idd_lite,
    labelmefacade,
    mapillary,
    synthia,
)
from tmt.errors import DataError

_LAYOUTS = {
    "cityscapes": (cityscapes.Cityscapes, cityscapes.listing),
    "bdd100k": (bdd100k.BDD100K, bdd100k.listing),
    "mapillary": (mapillary.Mapillary, mapillary.listing),
    "gtav": (gtav.GTAV, gtav.listing),
    "synthia": (synthia.Synthia, synthia.listing),
    "camvid": (camvid.CamVid, camvid.listing),
    "idd": (idd.IDD, idd.listing),
    "idd_lite": (idd_lite.IDDLite, idd_lite.listing),
    "labelmefacade": (labelmefacade.LabelMeFacade, labelmefacade.listing),
    "folders": (folders.Folders, folders.listing),
}
DATASETS = tuple(_LAYOUTS)


@readable()
def open_dataset(
    dataset: str,
    root: str | Path,
    split: str,
    *,
    mapping: str = "strict",
    version: str | None = None,
    classes: str | None = None,
    images: str | None = None,
) -> Dataset:
    """The reader of a dataset's on-disk layout, one of `DATASETS`; `folders` is a dataset of one's own.

    `mapping` (strict, broad) and `version` (v1.2, v2.0, None: the newest there) are Mapillary's; the others have none.
    `classes` is a class map (`tmt.data.class_maps`), `images` a list of the images to use (`tmt.data.lists`).
    Raises DataError for another name, and what the reader, the map or the list raises.
    """
    options = _options(_require(dataset, "open_dataset"), mapping, version)
    reader, listing = _LAYOUTS[dataset]
    found = reader(root, split, *options) if images is None else Pairs(_chosen(listing, root, split, options, images))
    return found if classes is None else found.with_listing(_mapped(dataset, found.listing, classes))


@readable()
def list_dataset(
    dataset: str,
    root: str | Path,
    split: str,
    *,
    mapping: str = "strict",
    version: str | None = None,
    classes: str | None = None,
    images: str | None = None,
    labelled: bool = True,
) -> Listing:
    """Where `open_dataset` of the same arguments looks for its files, whether they are there or not.

    Without `labelled` only the images count: no class map is read, and of `folders` no label and no table of classes.
    Raises DataError for another name, and where it cannot be known: a folder, list or table that is missing or wrong.
    """
    _, listing = _LAYOUTS[_require(dataset, "list_dataset")]
    options = (labelled,) if dataset == "folders" else _options(dataset, mapping, version)
    found = listing(root, split, *options) if images is None else _chosen(listing, root, split, options, images)
    return found if classes is None or not labelled else _mapped(dataset, found, classes)


def in_order(dataset: Dataset, label_set: LabelSet) -> Dataset:
    """A dataset whose classes come in the order of `label_set`, where both have the same ones; else the dataset."""
    same = dataset.label_set != label_set and set(dataset.label_set.names) == set(label_set.names)
    return dataset.with_listing(reordered(dataset.listing, label_set.names)) if same else dataset  # type: ignore


def _require(dataset: str, what: str) -> str:
    if dataset not in _LAYOUTS:
        raise DataError(f"{what}: dataset must be one of {', '.join(DATASETS)}, got {dataset!r}")
    return dataset


def _chosen(listing: Callable[..., Listing], root: str | Path, split: str, options: tuple, images: str) -> Listing:
    return chosen(Path(images), split, lambda other: listing(root, other, *options))


def _mapped(dataset: str, listing: Listing, classes: str) -> Listing:
    return mapped(listing, read_class_map(classes, listing.label_set, dataset, listing.ids))


def _options(dataset: str, mapping: str, version: str | None) -> tuple[str | None, ...]:
    """What a layout is told besides folder and split."""
    return (mapping, version) if dataset == "mapillary" else ()
