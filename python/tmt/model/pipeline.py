"""transformers' image segmentation pipeline, whose batches may hold pictures of several sizes.

transformers' own puts what its image processor made of each picture into one tensor, which needs pictures of one size.
A model of ours takes padding and a mask of it, and no picture's result depends on the others.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.image_segmentation import ImageSegmentationPipeline

from .configuration import TMTConfig

TASK = "image-segmentation"
IMAGES = ("pixel_values", "pixel_mask")


class TMTPipeline(ImageSegmentationPipeline):
    """`pipeline("image-segmentation", model=folder)`; for models that are not ours it is transformers' own."""

    def get_iterator(self, inputs: Any, num_workers: int, batch_size: int, *parameters: Any) -> Any:
        """As transformers', the pictures of a batch padded to one size."""
        iterator = super().get_iterator(inputs, num_workers, batch_size, *parameters)
        if isinstance(self.model.config, TMTConfig) and batch_size > 1:
            loader = iterator.loader.loader  # of pictures, through the model, to segments
            join = loader.collate_fn
            loader.collate_fn = lambda items: join(padded(items))
        return iterator


def padded(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What an image processor made of single pictures, (1, ..., H, W) each -> of one size, 0 below and on the right."""
    sizes = [item["pixel_values"].shape[-2:] for item in items]
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))

    def pad(maps: Tensor) -> Tensor:
        return F.pad(maps, (0, width - maps.shape[-1], 0, height - maps.shape[-2]))

    return [{name: pad(part) if name in IMAGES else part for name, part in item.items()} for item in items]


def register() -> None:
    """Make `transformers.pipeline` use it."""
    PIPELINE_REGISTRY.supported_tasks[TASK]["impl"] = TMTPipeline
