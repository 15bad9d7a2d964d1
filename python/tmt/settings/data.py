"""The settings of the two domains, and of what training makes of their images."""

from dataclasses import dataclass
from typing import Literal

from tmt.settings.fields import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, SHARE, Settings, setting

DrawnName = Literal["cityscapes", "bdd100k", "mapillary", "gtav", "synthia"]
DatasetName = Literal[DrawnName, "camvid", "idd", "idd_lite", "labelmefacade", "folders"]
MapillaryMapping = Literal["strict", "broad"]
MapillaryVersion = Literal["v1.2", "v2.0"]


@dataclass(frozen=True)
class AugmentConfig(Settings):
    """Training augmentation, applied in this order."""

    scale: tuple[float, float] = setting((0.5, 2.0), POSITIVE)
    """Range of the factor on the image's short side."""
    crop: tuple[int, int] = setting((512, 1024), AT_LEAST_ONE)
    """Height and width of the crop, in pixels."""
    max_class_share: float = setting(0.75, SHARE)
    """A crop whose largest class takes more than this share of the labelled pixels is drawn again."""
    jitter: float = setting(0.5, SHARE)
    """Probability of each of brightness, contrast, saturation and hue to be jittered."""
    flip: float = setting(0.5, SHARE)
    """Probability of a flip left to right."""
    rare_class_temperature: float | None = setting(None, POSITIVE)
    """Temperature of rare class sampling (DAFormer): images are drawn by their rare classes, class c with probability
    softmax((1 - its share of pixels) / temperature), 0.01 there; none: each epoch visits every image once."""


@dataclass(frozen=True)
class DataConfig(Settings):
    """The two domains, of the same classes. Without roots, synthetic street scenes are drawn and written in each
    dataset's own layout. `folders` is a dataset of your own: images/SPLIT, labels/SPLIT and classes.csv."""

    source: DatasetName = setting("gtav")
    """Layout and label encoding of the source domain."""
    target: DatasetName = setting("cityscapes")
    """Layout and label encoding of the target domain."""
    source_root: str | None = setting(None)
    """Folder of the source dataset; none: synthetic scenes."""
    target_root: str | None = setting(None)
    """Folder of the target dataset; none: synthetic scenes."""
    source_classes: str | None = setting(None)
    """Class map of the source: a CSV file of its classes and the coarser ones that they become, or one of the package,
    such as cityscapes_to_idd7; none: its own classes."""
    target_classes: str | None = setting(None)
    """Class map of the target, as `source_classes`; both must lead to classes of the same names."""
    source_train_list: str | None = setting(None)
    """Text file that names the source images to train on, NAME or SPLIT/NAME a line; none: the split `train`."""
    source_val_list: str | None = setting(None)
    """Text file that names the source images to evaluate on; none: the split `val`."""
    target_train_list: str | None = setting(None)
    """Text file that names the target images to train on; none: the split `train`."""
    target_val_list: str | None = setting(None)
    """Text file that names the target images to evaluate on; none: the split `val`."""
    target_labelled: bool = setting(True)
    """Whether the target's images have labels; false: its images alone are read, and stages that need no label of the
    target can be trained: source, and estimator of another kind than error with estimator.counted=image."""
    height: int | None = setting(None, NOT_NEGATIVE)
    """Height in pixels at which the network sees every image, as wide as its form asks, in training and evaluation;
    none or 0: its own. Scores are at the labels' size all the same, and the trained model remembers the height."""
    mapillary_mapping: MapillaryMapping = setting("strict")
    """Mapillary labels that count as a Cityscapes class: `strict`, those of one meaning; `broad`, near ones too."""
    mapillary_version: MapillaryVersion | None = setting(None)
    """Release of the Mapillary labels, v1.2 or v2.0; none: the newest that is there."""
    synthetic_folder: str | None = setting(None)
    """Where synthetic scenes are kept, to be shared by runs; none: `data` in the run's folder."""
    synthetic_source: int = setting(400, AT_LEAST_ONE)
    """Synthetic training images of the source domain."""
    synthetic_target: int = setting(100, AT_LEAST_ONE)
    """Synthetic training images of the target domain."""
    synthetic_val: int = setting(50, AT_LEAST_ONE)
    """Synthetic validation images of each domain."""
    synthetic_distance: float = setting(1.0, NOT_NEGATIVE)
    """How far the synthetic domains' looks are from what they have in common: 1, their own in full; 0, alike."""
    synthetic_size: tuple[int, int] = setting((192, 384), AT_LEAST_ONE)
    """Height and width of synthetic images, in pixels."""
    workers: int = setting(4, NOT_NEGATIVE, affects="nothing")
    """Processes that load training images; 0: load in the training process."""
