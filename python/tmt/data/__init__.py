"""Data: readers with one sample type, the embedded synthetic scenes, augmentation and loaders.

Names are loaded when first used: `python -m tmt.data` opens this package before it can say how torch's threads wait.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tmt.data.datasets import DATASETS, open_dataset
    from tmt.data.files import Dataset, Sample
    from tmt.data.labelled import require_classes
    from tmt.data.labels import CITYSCAPES19, CLASSES, IGNORE, PALETTE, LabelSet, colourise, lookup_table
    from tmt.data.loader import EvalBatch, TrainBatch, eval_batches, train_batches
    from tmt.data.rare import RareClasses, class_counts, rare_classes
    from tmt.data.readers.bdd100k import BDD100K
    from tmt.data.readers.camvid import CamVid
    from tmt.data.readers.cityscapes import Cityscapes
    from tmt.data.readers.folders import Folders
    from tmt.data.readers.gtav import GTAV
    from tmt.data.readers.idd import IDD
    from tmt.data.readers.idd_lite import IDDLite
    from tmt.data.readers.labelmefacade import LabelMeFacade
    from tmt.data.readers.mapillary import Mapillary
    from tmt.data.readers.synthia import Synthia
    from tmt.data.subset import Subset
    from tmt.data.transforms import IMAGENET, Augment, Scaling, normalise

_MODULES = {
    "tmt.data.datasets": ("DATASETS", "open_dataset"),
    "tmt.data.files": ("Dataset", "Sample"),
    "tmt.data.labelled": ("require_classes",),
    "tmt.data.labels": ("CITYSCAPES19", "CLASSES", "IGNORE", "PALETTE", "LabelSet", "colourise", "lookup_table"),
    "tmt.data.loader": ("EvalBatch", "TrainBatch", "eval_batches", "train_batches"),
    "tmt.data.rare": ("RareClasses", "class_counts", "rare_classes"),
    "tmt.data.readers.bdd100k": ("BDD100K",),
    "tmt.data.readers.camvid": ("CamVid",),
    "tmt.data.readers.cityscapes": ("Cityscapes",),
    "tmt.data.readers.folders": ("Folders",),
    "tmt.data.readers.gtav": ("GTAV",),
    "tmt.data.readers.idd": ("IDD",),
    "tmt.data.readers.idd_lite": ("IDDLite",),
    "tmt.data.readers.labelmefacade": ("LabelMeFacade",),
    "tmt.data.readers.mapillary": ("Mapillary",),
    "tmt.data.readers.synthia": ("Synthia",),
    "tmt.data.subset": ("Subset",),
    "tmt.data.transforms": ("IMAGENET", "Augment", "Scaling", "normalise"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "BDD100K",
    "CITYSCAPES19",
    "CLASSES",
    "DATASETS",
    "GTAV",
    "IDD",
    "IGNORE",
    "PALETTE",
    "Augment",
    "CamVid",
    "Cityscapes",
    "Dataset",
    "EvalBatch",
    "Folders",
    "IDDLite",
    "LabelMeFacade",
    "IMAGENET",
    "LabelSet",
    "Mapillary",
    "RareClasses",
    "Sample",
    "Scaling",
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


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tmt.data' has no attribute {name!r}")
