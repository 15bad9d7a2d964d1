"""Data: readers with one sample type, the embedded synthetic scenes, augmentation and loaders."""

from pathlib import Path

from tmt.data.bdd100k import BDD100K
from tmt.data.cityscapes import Cityscapes
from tmt.data.files import Dataset, Sample
from tmt.data.folders import Folders
from tmt.data.gtav import GTAV
from tmt.data.labels import CITYSCAPES19, CLASSES, IGNORE, PALETTE, LabelSet, colourise, lookup_table
from tmt.data.loader import eval_batches, train_batches
from tmt.data.mapillary import Mapillary
from tmt.data.rare import RareClasses, class_counts, rare_classes
from tmt.data.subset import Subset
from tmt.data.synthia import Synthia
from tmt.data.transforms import Augment, normalise
from tmt.errors import DataError

__all__ = [
    "BDD100K",
    "CITYSCAPES19",
    "CLASSES",
    "DATASETS",
    "GTAV",
    "IGNORE",
    "PALETTE",
    "Augment",
    "Cityscapes",
    "Dataset",
    "Folders",
    "LabelSet",
    "Mapillary",
    "RareClasses",
    "Sample",
    "Subset",
    "Synthia",
    "class_counts",
    "colourise",
    "eval_batches",
    "lookup_table",
    "normalise",
    "open_dataset",
    "rare_classes",
    "train_batches",
]

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
            return Cityscapes(root, split)
        case "bdd100k":
            return BDD100K(root, split)
        case "mapillary":
            return Mapillary(root, split, mapping, version)
        case "gtav":
            return GTAV(root, split)
        case "synthia":
            return Synthia(root, split)
        case "folders":
            return Folders(root, split)
    raise DataError(f"open_dataset: dataset must be one of {', '.join(DATASETS)}, got {dataset!r}")
