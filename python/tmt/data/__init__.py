"""Data: readers with one sample type, the embedded synthetic scenes, augmentation and loaders."""

from tmt.data.datasets import DATASETS, open_dataset
from tmt.data.files import Dataset, Sample
from tmt.data.labelled import require_classes
from tmt.data.labels import CITYSCAPES19, CLASSES, IGNORE, PALETTE, LabelSet, colourise, lookup_table
from tmt.data.loader import EvalBatch, TrainBatch, eval_batches, train_batches
from tmt.data.rare import RareClasses, class_counts, rare_classes
from tmt.data.readers.bdd100k import BDD100K
from tmt.data.readers.cityscapes import Cityscapes
from tmt.data.readers.folders import Folders
from tmt.data.readers.gtav import GTAV
from tmt.data.readers.mapillary import Mapillary
from tmt.data.readers.synthia import Synthia
from tmt.data.subset import Subset
from tmt.data.transforms import Augment, normalise

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
    "EvalBatch",
    "Folders",
    "LabelSet",
    "Mapillary",
    "RareClasses",
    "Sample",
    "Subset",
    "Synthia",
    "TrainBatch",
    "class_counts",
    "colourise",
    "eval_batches",
    "lookup_table",
    "normalise",
    "open_dataset",
    "rare_classes",
    "require_classes",
    "train_batches",
]
