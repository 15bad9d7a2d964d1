"""From class and mask logits of queries to class scores of pixels, at any size and in bounded memory."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tmt.runtime.precision import full, without_autocast

from .decoder import mask_logits as logits_of
from .decoder import resize

STRIP = 1 << 22
"""Mask values at full size that are in memory at a time, at most, where a single row has fewer."""


@dataclass(frozen=True)
class Queries:
    """What a model's queries say of images: a quarter of their size, and enough to form any rows of class scores."""

    classes: Tensor
    """(B, K, Q) probabilities, without "no object"."""
    masks: Tensor
    """(B, Q, h, w) logits."""

    @classmethod
    def of(cls, class_logits: Tensor, mask_logits: Tensor) -> "Queries":
        """Of class_logits (B, Q, K + 1), the last class is "no object", and mask_logits (B, Q, h, w)."""
        with without_autocast(class_logits):
            return cls(full(class_logits).softmax(-1)[..., :-1].transpose(1, 2), full(mask_logits))

    def image(self, index: int) -> "Queries":
        """Those of one image, B = 1."""
        return Queries(self.classes[index : index + 1], self.masks[index : index + 1])

    def strip(self, width: int) -> int:
        """Rows of scores `width` pixels wide that are formed at a time."""
        return max(1, STRIP // max(1, self.masks.shape[0] * self.masks.shape[1] * width))

    def scores(self, top: int, bottom: int, size: tuple[int, int]) -> Tensor:
        """Rows top to bottom of the class scores at `size` (H, W), (B, K, bottom - top, W); see `semantic_scores`."""
        with without_autocast(self.masks):
            strip = _strip(self.masks, top, bottom, size)
            return (self.classes @ strip.sigmoid().flatten(2)).unflatten(2, strip.shape[-2:])


def full_masks(mask_embeddings: Tensor, mask_features: Tensor) -> Tensor:
    """mask_embeddings (B, Q, E), mask_features (B, E, H4, W4) -> mask logits (B, Q, H4, W4)."""
    return logits_of(mask_embeddings, mask_features.flatten(2)).unflatten(2, mask_features.shape[-2:])


def semantic_scores(class_logits: Tensor, mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Sum over queries of class probability times mask probability, mask logits resized bilinearly to `size` before.

    As in Mask2Former: a sigmoid of resized logits keeps thin things whose resized probabilities would sink under
    their neighbours'. Masks are resized strip by strip, never all at once.

    Args:
        class_logits: (B, Q, K + 1), the last class is "no object".
        mask_logits: (B, Q, h, w), resized in one step.
        size: (H, W) of the result.

    Returns:
        (B, K, H, W) float32 (float64 for float64); not normalised, the largest class is the prediction.
    """
    height, width = size
    queries = Queries.of(class_logits, mask_logits)
    scores = queries.classes.new_empty(*queries.classes.shape[:2], height, width)
    rows = queries.strip(width)
    for top in range(0, height, rows):
        scores[:, :, top : top + rows] = queries.scores(top, min(top + rows, height), size)
    return scores


def without_padding(mask_logits: Tensor, sizes: Tensor | None) -> list[Tensor]:
    """mask_logits (B, Q, h, w) -> per image (Q, h_i, w_i), h_i and w_i from sizes (B, 2) int64; None: all of it."""
    if sizes is None:
        return list(mask_logits)
    return [mask[:, :height, :width] for mask, (height, width) in zip(mask_logits, sizes.tolist(), strict=True)]


def _strip(masks: Tensor, top: int, bottom: int, size: tuple[int, int]) -> Tensor:
    """Rows top to bottom of masks (B, Q, h, w) resized to `size` -> (B, Q, bottom - top, W)."""
    height, width = size
    if (masks.shape[-2], masks.shape[-1]) == (height, width):
        return masks[:, :, top:bottom]
    rows = torch.arange(top, bottom, device=masks.device, dtype=masks.dtype)
    place = ((rows + 0.5) * (masks.shape[-2] / height) - 0.5).clamp(min=0)
    above = place.long().clamp(max=masks.shape[-2] - 1)
    below = (above + 1).clamp(max=masks.shape[-2] - 1)
    tall = torch.lerp(masks[:, :, above], masks[:, :, below], (place - above)[:, None])
    return resize(tall, (bottom - top, width))
