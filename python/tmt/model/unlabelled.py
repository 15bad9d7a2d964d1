"""Pixels without a label: where the loss looks in an image that has some, and how much "no object" counts there.

Without a label means unknown, not "of no mask": what a model says of such ground is neither right nor wrong. Images
whose pixels are all labelled are none of this module's business; they keep Mask2Former's points and weights.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .layout import covering

COARSER = 2  # sides of the cells in which masks are weighed, in positions of the mask features
LEAST = 1e-6  # probability of a mask that is nowhere: its share is that of the labelled area


class Ground(NamedTuple):
    """Which pixels of a batch have a label, where not all have one."""

    labelled: Tensor  # (B, H, W) bool
    partial: list[int]  # the images with pixels that have none


def ground_of(labelled: Tensor) -> Ground | None:
    """labelled (B, H, W) bool -> None where every pixel of the batch has a label."""
    complete = labelled.flatten(1).all(1).tolist()
    partial = [i for i, whole in enumerate(complete) if not whole]
    return Ground(labelled, partial) if partial else None


def on_labelled(points: Tensor, seeds: Tensor, ground: Ground) -> Tensor:
    """Points (B, P, 2), those of partial images replaced by centres of labelled pixels.

    Pixels are drawn uniformly, with replacement, from seeds (B,), image i's from its own alone. An image without any
    labelled pixel keeps its points: nothing of it counts.
    """
    height, width = ground.labelled.shape[1:]
    size = torch.tensor([width, height], device=points.device)
    generator = torch.Generator(points.device)
    points = points.clone()
    for i in ground.partial:
        pixels = ground.labelled[i].flatten().nonzero()[:, 0]
        if len(pixels):
            generator.manual_seed(int(seeds[i]))
            drawn = torch.randint(len(pixels), points.shape[1:2], generator=generator, device=points.device)
            chosen = pixels[drawn]
            points[i] = (torch.stack([chosen % width, chosen // width], 1) + 0.5) / size
    return points


def labelled_cells(ground: Ground, height: int, width: int) -> Tensor:
    """The positions (B, height, width) bool of a map of the images that overlap a labelled pixel."""
    return F.adaptive_max_pool2d(ground.labelled[:, None].float(), (height, width))[:, 0] > 0


@torch.no_grad()
def labelled_share(embeddings: Tensor, features: Tensor, ground: Ground) -> Tensor:
    """Which share of each mask's probability lies on labelled pixels; exactly 1 in images that are labelled throughout.

    Weighed in cells of 2 x 2 positions, where a mask's logit is the mean of theirs: a quarter of the products.

    Args:
        embeddings: (L, B, Q, E).
        features: (B, E, H4, W4).
        ground: of the B images.

    Returns:
        (L, B, Q) in [0, 1], without gradient. A mask of next to no probability has the share of the labelled area.
    """
    size = covering(features.shape[-2:], COARSER)
    coarse = F.adaptive_avg_pool2d(features[ground.partial], size).flatten(2)  # (b, E, S)
    known = F.adaptive_avg_pool2d(ground.labelled[ground.partial, None].to(coarse), size).flatten(2)  # (b, 1, S)
    shares = embeddings.new_ones(embeddings.shape[:-1])
    for share, layer in zip(shares, embeddings, strict=True):  # a layer at a time, for memory
        probability = (layer[ground.partial] @ coarse).sigmoid().clamp(min=LEAST)  # (b, Q, S)
        share[ground.partial] = ((probability * known).sum(-1) / probability.sum(-1)).clamp(max=1)
    return shares
