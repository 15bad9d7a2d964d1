"""Room: transformers' image processor for saved models. In: a folder. Out: preprocessor_config.json in it."""

from pathlib import Path

import transformers
from transformers.image_processing_utils import BaseImageProcessor


def image_processor_class() -> type[BaseImageProcessor]:
    """Mask2Former's image processor that needs pillow alone; its name gained "Pil" after transformers 5.0."""
    if "Mask2FormerImageProcessorPil" in dir(transformers):
        return transformers.Mask2FormerImageProcessorPil
    return transformers.Mask2FormerImageProcessor


def image_processor() -> BaseImageProcessor:
    """Scales to [0, 1] and normalises as in training; keeps the image's size, which the model takes as it is."""
    return image_processor_class()(do_resize=False, ignore_index=255, do_reduce_labels=False)


def save_processor(folder: str | Path) -> None:
    """Write the image processor beside a saved model."""
    image_processor().save_pretrained(folder)
