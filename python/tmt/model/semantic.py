"""From class and mask logits of queries to class scores of pixels, at any size and in bounded memory."""

import torch
from torch import Tensor

from tmt.runtime.precision import full, without_autocast

from .decoder import resize

STRIP = 1 << 22
"""Mask values at full size that are in memory at a time, at most, where a single row has fewer."""


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
    with without_autocast(class_logits):
        classes = full(class_logits).softmax(-1)[..., :-1].transpose(1, 2)  # (B, K, Q)
        masks = full(mask_logits)
        scores = classes.new_empty(*classes.shape[:2], height, width)
        rows = max(1, STRIP // max(1, masks.shape[0] * masks.shape[1] * width))
        for top in range(0, height, rows):
            strip = _strip(masks, top, min(top + rows, height), size)
            scores[:, :, top : top + rows] = (classes @ strip.sigmoid().flatten(2)).unflatten(2, strip.shape[-2:])
    return scores


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
