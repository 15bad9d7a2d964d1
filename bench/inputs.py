"""What is measured on: sizes and random inputs, the same for every contestant."""

import torch
from torch import Tensor

from tmt.model.pixel_decoder import reference_points

HEADS, DIM, QUERIES, POINTS = 8, 32, 100, 4


def unstructured(batch: int, queries: int, keys: int) -> tuple[Tensor, Tensor]:
    """Mask logits (B, N, S) and transferability (B, S) without any structure: half of the keys inside each mask."""
    return torch.randn(batch, queries, keys), torch.rand(batch, keys)


def blobs(batch: int, queries: int, keys: int) -> tuple[Tensor, Tensor]:
    """Mask logits (B, N, S) of one disc a query on a 1:2 map, as a model predicts them, and a smooth T (B, S)."""
    height = int((keys / 2) ** 0.5)
    width = keys // height
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centre = torch.rand(batch, queries, 2, 1, 1) * torch.tensor([height, width]).view(2, 1, 1)
    radius = height * (0.05 + 0.2 * torch.rand(batch, queries, 1, 1))
    distance = ((y - centre[:, :, 0]) ** 2 + (x - centre[:, :, 1]) ** 2).sqrt()
    return (radius - distance).flatten(2), smooth(batch, 1, height, width).clamp(0, 1).flatten(1)


def smooth(batch: int, channels: int, height: int, width: int) -> Tensor:
    """A random map (B, C, H, W) of values around 0.5 that changes slowly; without its dimension where C is 1."""
    coarse = torch.rand(batch, channels, 4, 8)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").squeeze(1)


def attention(batch: int, keys: int, shaped: bool) -> tuple[Tensor, ...]:
    """query (B, 8, 100, 32), key and value (B, 8, S, 32), mask logits (B, 100, S), T (B, S)."""
    query, key, value = (torch.randn(batch, HEADS, count, DIM) for count in (QUERIES, keys, keys))
    return query, key, value, *(blobs if shaped else unstructured)(batch, QUERIES, keys)


def deformable(
    batch: int, crop: tuple[int, int], points: int = 4
) -> tuple[Tensor, tuple[tuple[int, int], ...], Tensor]:
    """Value (B, S, heads, D) of a crop's levels at strides 32, 16 and 8, their shapes, and locations
    (B, S, heads, levels, 4, 2) around every position, as a pixel decoder samples them.
    """
    shapes = tuple((crop[0] // stride, crop[1] // stride) for stride in (32, 16, 8))
    positions = reference_points(shapes, torch.empty(0))  # (S, 2)
    sizes = torch.tensor([[width, height] for height, width in shapes])[:, None]
    steps = 2 * torch.randn(batch, len(positions), HEADS, len(shapes), POINTS, 2)  # pixels of the level
    value = torch.randn(batch, len(positions), HEADS, DIM)
    return value, shapes, positions[:, None, None, None] + steps / sizes
