"""Multi-scale deformable attention (Deformable DETR, Eq. 3) in plain PyTorch; in float64 it is the oracle."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import grid_sample


def deformable_attention(
    value: Tensor, shapes: Sequence[Sequence[int]] | Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """Same arguments and result as `tmt_ext.deformable_attention`; see there.

    Of gathered rows: PyTorch's `grid_sample` has no forward-mode derivative. For exporters it is one node.
    """
    sizes = shapes.tolist() if isinstance(shapes, Tensor) else shapes
    maps = value.transpose(1, 2).split([height * width for height, width in sizes], dim=2)  # (B, heads, H * W, D) each
    levels = zip(maps, sizes, locations.transpose(1, 2).unbind(3), weights.transpose(1, 2).unbind(3), strict=True)
    samples = [
        shares.unsqueeze(-1) * _samples(rows, height, width, places) for rows, (height, width), places, shares in levels
    ]
    return torch.cat(samples, dim=3).sum(3).transpose(1, 2).flatten(2)


def _samples(rows, height, width, locations):
    """(B, heads, Q, points, D): a level's rows (B, heads, H * W, D) at locations (B, heads, Q, points, 2)."""
    if torch.compiler.is_exporting():
        return _grid_samples(rows, height, width, locations)
    x, y = (locations[..., i, None] * size - 0.5 for i, size in enumerate((width, height)))
    outside = ((x <= -1) | (x >= width) | (y <= -1) | (y >= height)) & (x == x) & (y == y)
    x, y = x.masked_fill(outside, -2), y.masked_fill(outside, -2)  # a place without pixels; infinity is none
    left, upper = x.detach().floor(), y.detach().floor()
    right, below = x - left, y - upper

    def line(y):
        return (1 - right) * _pixels(rows, height, width, left, y) + right * _pixels(rows, height, width, left + 1, y)

    return (1 - below) * line(upper) + below * line(upper + 1)


def _grid_samples(rows, height, width, locations):
    """As `_samples`."""
    maps = rows.flatten(0, 1).mT.unflatten(2, (height, width))  # (B * heads, D, H, W)
    found = grid_sample(maps, 2 * locations.flatten(0, 1) - 1, align_corners=False)  # (B * heads, D, Q, points)
    return found.permute(0, 2, 3, 1).unflatten(0, rows.shape[:2])


def _pixels(rows, height, width, x, y):
    """(B, heads, Q, points, D): the values at whole x and y (B, heads, Q, points, 1), 0 where there is no pixel."""
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = y.where(inside, 0).long() * width + x.where(inside, 0).long()
    found = rows.gather(2, index.flatten(2, 3).expand(-1, -1, -1, rows.shape[3]))
    return found.unflatten(2, x.shape[2:4]).where(inside, 0)
