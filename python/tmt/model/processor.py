"""transformers' image processor, saved beside a model as preprocessor_config.json."""

import json
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentationOutput
from transformers.utils.generic import ModelOutput

from tmt.data.labels import IGNORE
from tmt.data.transforms import IMAGENET, Scaling
from tmt.errors import CheckpointError

from .semantic import semantic_scores, without_padding

WIDEST = 1 << 16
"""More pixels than an image is wide, so that its height alone says how it is resized."""
PACKAGE = "transformers.models.mask2former."
Output = Mask2FormerForUniversalSegmentationOutput
Sizes = Sequence[tuple[int, int]] | None
"""Height and width that each image's map is to have."""


def _plain_class() -> type[BaseImageProcessor]:
    """Mask2Former's image processor that needs pillow alone; its name gained "Pil" in later versions.

    Taken from its own module: from the top, some versions ask for torchvision without need.
    """
    if find_spec(PACKAGE + "image_processing_pil_mask2former"):
        return import_module(PACKAGE + "image_processing_pil_mask2former").Mask2FormerImageProcessorPil
    return import_module(PACKAGE + "image_processing_mask2former").Mask2FormerImageProcessor


class TMTImageProcessor(_plain_class()):  # type: ignore[misc]  # which of two classes, the version decides
    """Mask2Former's image processor, whose semantic maps are those of `semantic_probabilities`.

    Panoptic and instance maps are transformers' own: from masks squeezed to 384 x 384, each query a segment of its own
    where its score reaches the threshold. A model trained on semantic labels has one segment per class.
    """

    def preprocess(self, *args: Any, **kwargs: Any) -> BatchFeature:
        """As transformers', but `mask_labels` are 0 in padding, where transformers' are `ignore_index`."""
        features = super().preprocess(*args, **kwargs)
        if "mask_labels" in features:
            features["mask_labels"] = [mask * (mask <= 1) for mask in features["mask_labels"]]
        return features

    def post_process_semantic_segmentation(
        self,
        outputs: Output,
        target_sizes: Sizes = None,
        return_segmentation_scores: bool = False,
    ) -> list[Any]:
        """The class of each pixel, image by image, int64; transformers' own squeezes every mask to 384 x 384 before.

        Args:
            outputs: of the model; of padded images, what lies in the images.
            target_sizes: (H, W) of each image; None: the masks' own size, a quarter of the image's.
            return_segmentation_scores: whether each is an object of `segmentation` (H, W) and `segmentation_scores`
                (K, H, W), as transformers has it.

        Raises:
            ValueError: not one size per image.
        """
        classes, masks = _logits(outputs)
        parts = without_padding(masks, getattr(outputs, "mask_sizes", None))
        sizes = [tuple(part.shape[-2:]) for part in parts] if target_sizes is None else list(target_sizes)
        if len(sizes) != len(masks):
            raise ValueError(
                f"post_process_semantic_segmentation: target_sizes must be one (H, W) per image, {len(masks)}, "
                f"got {len(sizes)}"
            )
        maps: list[Any] = []
        for one, mask, (height, width) in zip(classes, parts, sizes, strict=True):
            scores = semantic_scores(one[None], mask[None], (int(height), int(width)))[0]
            found = scores.argmax(0)
            maps.append(_with_scores(found, scores) if return_segmentation_scores else found)
        return maps

    def post_process_panoptic_segmentation(
        self,
        outputs: Output,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        label_ids_to_fuse: set[int] | None = None,
        target_sizes: Sizes = None,
    ) -> list[dict[str, Any]]:
        """As transformers'; of padded images, what lies in the images."""
        apply = super().post_process_panoptic_segmentation  # type: ignore[misc]  # of one of two classes
        given = threshold, mask_threshold, overlap_mask_area_threshold, label_ids_to_fuse
        return [made for one, sizes in _unpadded(outputs, target_sizes) for made in apply(one, *given, sizes)]

    def post_process_instance_segmentation(
        self,
        outputs: Output,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        target_sizes: Sizes = None,
        return_coco_annotation: bool | None = False,
        return_binary_maps: bool | None = False,
    ) -> list[dict[str, Any]]:
        """As transformers'; of padded images, what lies in the images."""
        apply = super().post_process_instance_segmentation  # type: ignore[misc]  # of one of two classes
        given = threshold, mask_threshold, overlap_mask_area_threshold
        kinds = return_coco_annotation, return_binary_maps
        return [made for one, sizes in _unpadded(outputs, target_sizes) for made in apply(one, *given, sizes, *kinds)]


def _unpadded(outputs: Output, target_sizes: Sizes) -> Iterator[tuple[Output, Sizes]]:
    """The outputs and sizes of images together; of padded ones, one by one and without their padding."""
    mask_sizes = getattr(outputs, "mask_sizes", None)
    if mask_sizes is None:
        yield outputs, target_sizes
        return
    classes, masks = _logits(outputs)
    for i, mask in enumerate(without_padding(masks, mask_sizes)):
        one = Output(class_queries_logits=classes[i : i + 1], masks_queries_logits=mask[None])
        yield one, None if target_sizes is None else target_sizes[i : i + 1]


def _logits(outputs: Output) -> tuple[Tensor, Tensor]:
    """Class and mask logits."""
    classes, masks = outputs.class_queries_logits, outputs.masks_queries_logits
    assert classes is not None and masks is not None
    return classes, masks


def _with_scores(found: Tensor, scores: Tensor) -> ModelOutput:
    return ModelOutput(segmentation=found, segmentation_scores=scores)


def image_processor(scaling: Scaling = IMAGENET, height: int | None = None) -> BaseImageProcessor:
    """Scales to [0, 1] and normalises as in training; resizes images to a height, or keeps their size, which the model
    takes as it is."""
    size = {"size": {"max_height": height, "max_width": WIDEST}, "size_divisor": 0} if height else {}
    normal = {"image_mean": list(scaling.mean), "image_std": list(scaling.deviation)}
    return TMTImageProcessor(do_resize=bool(height), ignore_index=IGNORE, do_reduce_labels=False, **normal, **size)


def scaling_in(folder: Path) -> Scaling | None:
    """How the image processor saved in a model's folder scales images; None without one.

    Raises CheckpointError for one that cannot be read.
    """
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return None
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        if "image_mean" not in saved:
            return None
        # Of pixels times a factor, 1 / 255 as a rule; where there is none, they are in [0, 255].
        unit = 255 * saved.get("rescale_factor", 1 / 255) if saved.get("do_rescale", True) else 255.0
        mean, deviation = saved["image_mean"], saved["image_std"]
        if not saved.get("do_normalize", True):
            mean, deviation = [0.0] * len(mean), [1.0] * len(mean)
        return Scaling(tuple(value / unit for value in mean), tuple(value / unit for value in deviation))
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{file}: not an image processor's settings: {error}; copy or download it again"
        ) from error


def save_processor(folder: str | Path, scaling: Scaling, height: int | None = None) -> None:
    """Write the image processor beside a saved model, of its `scaling` and the height that it was trained at."""
    image_processor(scaling, height).save_pretrained(folder)
