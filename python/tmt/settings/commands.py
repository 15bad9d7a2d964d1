"""The settings of the commands that use a saved model or a finished study."""

from dataclasses import dataclass
from typing import Literal

from tmt.settings.data import DatasetName, MapillaryMapping, MapillaryVersion
from tmt.settings.fields import NOT_NEGATIVE, SHARE, Settings, setting
from tmt.settings.run import Device
from tmt.settings.training import InferenceConfig

Kind = Literal["labels", "overlay", "transferability", "confidence"]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(InferenceConfig):
    """Evaluate a saved model: every mIoU in use, fwIoU, mACC, pACC and all classes, at the labels' resolution."""

    model: str
    """Folder of a saved model."""
    dataset: DatasetName
    """Layout and label encoding of the dataset; `folders` is one of your own."""
    root: str
    """Folder of the dataset."""
    split: str = "val"
    """Split of the dataset, such as train, val or test."""
    mapillary_mapping: MapillaryMapping = "strict"
    """Mapillary labels that count as a Cityscapes class: `strict`, those of one meaning; `broad`, near ones too."""
    mapillary_version: MapillaryVersion | None = None
    """Release of the Mapillary labels, v1.2 or v2.0; none: the newest that is there."""
    out: str | None = None
    """Folder for metrics.json, scores.md and pictures; none: only print."""
    pictures: int = setting(0, NOT_NEGATIVE)
    """Images to draw, with prediction, transferability and superpixel borders."""
    transferability: bool | None = None
    """Switches the transferability off or on in inference; none: as the model was saved."""
    device: Device = "auto"
    """Where to compute; auto: CUDA when there is a GPU, else the CPU."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig(InferenceConfig):
    """Segment images with a saved model and write labels, overlays, transferability and confidence as PNG."""

    model: str
    """Folder of a saved model."""
    paths: tuple[str, ...]
    """Images, folders that are searched to their bottom, and patterns such as 'city/*/*.png'."""
    out: str
    """Folder for the pictures; made where it is missing."""
    save: tuple[Kind, ...] = ("labels", "overlay")
    """Kinds of pictures to write: labels, overlay, transferability, confidence."""
    ids: Literal["train", "label"] = "train"
    """Ids in the labels: `train`, 0 to K - 1, or `label`, those of Cityscapes that its official evaluator reads."""
    opacity: float = setting(0.6, SHARE)
    """Opacity of the class colours over the image."""
    overwrite: bool = False
    """Whether pictures that exist are made anew; else they are kept, and only what is missing is made."""
    transferability: bool | None = None
    """Switches the transferability off or on in inference; none: as the model was saved."""
    device: Device = "auto"
    """Where to compute; auto: CUDA when there is a GPU, else the CPU."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Settings):
    """Make the report of a study, finished or not."""

    study: str
    """Folder of the study (python -m tmt.experiments)."""
    out: str | None = None
    """Folder of the report; none: `report` in the study's folder."""
    images: int = setting(1, NOT_NEGATIVE)
    """Validation images that are drawn of each pair; 0: no pictures."""
