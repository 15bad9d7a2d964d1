"""Random points of an image, and the values of maps and masks there."""

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class PointCounts(NamedTuple):
    """How many random points of an image serve what."""

    matching: int
    candidates: int  # of which the most uncertain are kept, mask by mask
    uncertain: int  # kept
    uniform: int  # kept whatever the prediction


def point_counts(points: int, oversample: float, importance: float) -> PointCounts:
    """Of `points` per mask the share `importance` is the most uncertain of `points` * `oversample` candidates."""
    uncertain = int(importance * points)
    return PointCounts(points, int(points * oversample), uncertain, points - uncertain)


def draw_points(seeds: Tensor, count: int, device: torch.device) -> Tensor:
    """seeds (B,) int64 -> points (B, count, 2), x and y in [0, 1), image i's a function of its seed alone."""
    points = torch.empty(len(seeds), count, 2, device=device)
    generator = torch.Generator(device)
    for row, seed in zip(points, seeds.tolist(), strict=True):
        row.uniform_(generator=generator.manual_seed(seed))
    return points


def sample(maps: Tensor, points: Tensor, mode: str = "bilinear") -> Tensor:
    """maps (B, C, H, W), points (B, P, 2) in [0, 1] -> values (B, C, P), bilinear or nearest, 0 outside."""
    return F.grid_sample(maps, 2.0 * points[:, :, None].to(maps) - 1.0, mode=mode, align_corners=False).squeeze(3)


def sample_features(maps: Tensor, points: Tensor, counted: Tensor | None = None) -> Tensor:
    """The same as `sample` for many channels: a point reads and its gradient writes four rows of adjacent numbers.

    With `counted` (B, H, W) bool, positions that do not count are left out and the others' weights grow instead.
    """
    batch, channels, height, width = maps.shape
    index, weight = bilinear_taps(points, height, width)
    if counted is not None:
        weight = _among_counted(index, weight, counted)
    index = index + height * width * torch.arange(batch, device=index.device)[:, None, None]
    rows = maps.permute(0, 2, 3, 1).reshape(-1, channels).contiguous()  # (B * H * W, C); a view of channels-last maps
    weight = weight.flatten(0, 1).to(rows.dtype)
    sums = F.embedding_bag(index.flatten(0, 1), rows, per_sample_weights=weight, mode="sum")
    return sums.unflatten(0, (batch, -1)).transpose(1, 2)


def bilinear_taps(points: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """points (B, P, 2) in [0, 1] -> the four pixels y * width + x around each (B, P, 4) and their weights."""
    size = torch.tensor([width, height], device=points.device)
    place = points * size - 0.5
    corner = place.floor()
    offsets = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], device=points.device)
    pixels = corner.long()[:, :, None] + offsets  # (B, P, 4, 2)
    near = (1 - offsets) + (2 * offsets - 1) * (place - corner)[:, :, None]  # 1 - fraction, or the fraction
    inside = ((pixels >= 0) & (pixels < size)).all(-1)
    pixels = torch.minimum(pixels.clamp(min=0), size - 1)
    return pixels[..., 1] * width + pixels[..., 0], near.prod(-1) * inside


def _among_counted(index: Tensor, weight: Tensor, counted: Tensor) -> Tensor:
    """The weights (B, P, 4) of positions `index` (B, P, 4) that are `counted` (B, H, W) bool; their sum is kept.

    Where all four count, the weights are the same to the bit.
    """
    kept = weight * counted.flatten(1).gather(1, index.flatten(1)).view_as(weight)
    smallest = torch.finfo(weight.dtype).tiny  # where none counts, all weights are 0
    return kept * (weight.sum(-1, keepdim=True) / kept.sum(-1, keepdim=True).clamp(min=smallest))


def sample_targets(mask_labels: list[Tensor], points: Tensor, centred: Collection[int] = ()) -> Tensor:
    """mask_labels per image (n_i, H, W), points (B, P, 2) -> (B, n, P), n = max(1, n_i), 0 beyond an image's own.

    The points of images in `centred` are centres of pixels: these pixels' own values, without rounding.
    """
    number = max([1, *map(len, mask_labels)])
    targets = points.new_zeros(len(mask_labels), number, points.shape[1])
    for i, masks in enumerate(mask_labels):
        if len(masks):
            mode = "nearest" if i in centred else "bilinear"
            targets[i, : len(masks)] = sample(masks[None].to(points), points[i : i + 1], mode)[0]
    return targets
