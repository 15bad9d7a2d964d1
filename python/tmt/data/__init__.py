"""Data: readers with one sample type, the embedded synthetic scenes, augmentation and loaders."""

from pathlib import Path

from tmt.data.cityscapes import Cityscapes
from tmt.data.files import Dataset, Sample
from tmt.data.gtav import GTAV
from tmt.data.labels import CLASSES, IGNORE, PALETTE, colourise, lookup_table
from tmt.data.loader import eval_batches, train_batches
from tmt.data.transforms import Augment, normalise
from tmt.errors import DataError

__all__ = [
    "CLASSES",
    "GTAV",
    "IGNORE",
    "PALETTE",
    "Augment",
    "Cityscapes",
    "Dataset",
    "Sample",
    "colourise",
    "eval_batches",
    "lookup_table",
    "normalise",
    "open_dataset",
    "train_batches",
]


def open_dataset(dataset: str, root: str | Path, split: str) -> Dataset:
    """The reader of a dataset's on-disk layout: `cityscapes` or `gtav`. Raises DataError for another name."""
    match dataset:
        case "cityscapes":
            return Cityscapes(root, split)
        case "gtav":
            return GTAV(root, split)
    raise DataError(f"open_dataset: dataset must be cityscapes or gtav, got {dataset!r}")
