"""transformers' image processor, saved beside a model as preprocessor_config.json."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from transformers.image_processing_utils import BaseImageProcessor

from tmt.data.labels import IGNORE

PACKAGE = "transformers.models.mask2former."


def image_processor_class() -> type[BaseImageProcessor]:
    """Mask2Former's image processor that needs pillow alone; its name gained "Pil" in later versions.

    Taken from its own module: from the top, some versions ask for torchvision without need.
    """
    if find_spec(PACKAGE + "image_processing_pil_mask2former"):
        return import_module(PACKAGE + "image_processing_pil_mask2former").Mask2FormerImageProcessorPil
    return import_module(PACKAGE + "image_processing_mask2former").Mask2FormerImageProcessor


def image_processor() -> BaseImageProcessor:
    """Scales to [0, 1] and normalises as in training; keeps the image's size, which the model takes as it is."""
    return image_processor_class()(do_resize=False, ignore_index=IGNORE, do_reduce_labels=False)


def save_processor(folder: str | Path) -> None:
    """Write the image processor beside a saved model."""
    image_processor().save_pretrained(folder)
