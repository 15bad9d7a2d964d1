"""Where one query of a model attends: the query that fits a class best."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from tmt.model import TMTForSemanticSegmentation
from tmt.model.decoder import LEVELS
from tmt.model.layout import covering


@dataclass(frozen=True)
class Look:
    """One query of one decoder layer; h x w is the layer's resolution."""

    layer: int
    query: int
    allowed: np.ndarray
    """(h, w) float, 1 where the query may attend."""
    weights: np.ndarray
    """(h, w) float, attention, mean over heads."""
    mask: np.ndarray
    """(H/4, W/4) float, 1 where the predicted mask is."""
    iou: float
    """Of the predicted mask and the class."""


def attend(model: TMTForSemanticSegmentation, pixels: Tensor, region: np.ndarray, index: int) -> Look:
    """The query that fits a class best, in the last decoder layer of the finest level; arguments as of `follow`."""
    looks = follow(model, pixels, region, index)
    return next((look for look in reversed(looks) if look.layer % LEVELS == LEVELS - 1), looks[-1])


@torch.no_grad()
def follow(model: TMTForSemanticSegmentation, pixels: Tensor, region: np.ndarray, index: int) -> list[Look]:
    """The query that fits a class best, through all decoder layers.

    pixels (1, 3, H, W), normalised; region (H, W) bool, where the class is; index: the class. The query is that of the
    highest class probability times IoU.
    """
    outputs = model(pixel_values=pixels.to(model.device), output_attentions=True)
    masks = (outputs.masks_queries_logits[0] > 0).float().cpu()  # (Q, H/4, W/4)
    area = interpolate(torch.from_numpy(region.astype(np.float32))[None, None], size=masks.shape[-2:], mode="area")
    truth = area[0] > 0.5
    common = (masks * truth).sum((1, 2))
    iou = common / ((masks + truth) > 0).sum((1, 2)).clamp(min=1)
    probability = outputs.class_queries_logits[0].softmax(-1)[:, index].cpu()
    query = int((probability * iou).argmax())
    looks = []
    for layer, every in enumerate(outputs.cross_attentions):
        weights = every[0, :, query].float().cpu()  # (heads, S)
        size = _level_size(weights.shape[-1], pixels.shape[-2:])
        allowed, mean = (weights > 0).any(0).float().view(size).numpy(), weights.mean(0).view(size).numpy()
        looks.append(Look(layer, query, allowed, mean, masks[query].numpy(), float(iou[query])))
    return looks


def _level_size(positions: int, size: Sequence[int]) -> tuple[int, int]:
    """Height and width of a decoder level with so many positions."""
    for stride in (8, 16, 32):
        height, width = covering(size, stride)
        if height * width == positions:
            return height, width
    raise ValueError(f"attend: {positions} positions are no level of an image of {tuple(size)}")
