"""Multi-scale deformable attention (Deformable DETR, Eq. 3) in plain PyTorch; in float64 it is the oracle."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import grid_sample


def deformable_attention(
    value: Tensor, shapes: Sequence[Sequence[int]] | Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """Same arguments and result as `tmt_ext.deformable_attention`; see there."""
    sizes = shapes.tolist() if isinstance(shapes, Tensor) else shapes
    batch, _, heads, dim = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    places = (2 * locations - 1).clamp(-4, 4)  # far outside, infinity included, is outside
    grids = places.movedim(2, 1).flatten(0, 1)  # (B * heads, Q, levels, points, 2)
    maps = value.permute(0, 2, 3, 1).flatten(0, 1).split([height * width for height, width in sizes], dim=2)
    samples = [  # (B * heads, D, Q, points) each
        grid_sample(levels.unflatten(2, tuple(size)), grids[:, :, level], "bilinear", "zeros", align_corners=False)
        for level, (levels, size) in enumerate(zip(maps, sizes, strict=True))
    ]
    shares = weights.movedim(2, 1).reshape(batch * heads, 1, queries, len(samples) * points)
    output = (torch.cat(samples, dim=3) * shares).sum(3)  # (B * heads, D, Q)
    return output.view(batch, heads * dim, queries).mT.contiguous()
