"""What users would write without the extension, each at its best; the operators are timed against these."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def superpixel_unfold(features: Tensor, cell: int, iterations: int, kappa: float) -> tuple[Tensor, Tensor]:
    """Pixels grouped by cell; centres of the 3x3 neighbours by unfold; matrix products; partial sums by fold.

    Args:
        features: (B, C, H, W) with H and W divisible by `cell`.

    Returns:
        region_features (B, C, h, w), assignment by cell (B, h * w, cell * cell, 9).
    """
    batch, channels, height, width = features.shape
    grid = (height // cell, width // cell)
    pixels = features.unflatten(3, (grid[1], cell)).unflatten(2, (grid[0], cell))
    pixels = pixels.permute(0, 2, 4, 3, 5, 1).reshape(batch, grid[0] * grid[1], cell * cell, channels)
    unit = F.normalize(pixels, dim=-1, eps=1e-6)
    exists = F.unfold(features.new_ones(1, 1, *grid), 3, padding=1).transpose(1, 2)[:, :, None].bool()
    centres = pixels.mean(2).transpose(1, 2).unflatten(2, grid)
    for _ in range(iterations):
        around = F.unfold(F.normalize(centres, dim=1, eps=1e-6), 3, padding=1).unflatten(1, (channels, 9))
        scores = unit @ around.permute(0, 3, 1, 2) * kappa
        assignment = scores.masked_fill(~exists, -math.inf).softmax(-1)
        sums = (pixels.transpose(2, 3) @ assignment).permute(0, 2, 3, 1).flatten(1, 2)
        mass = assignment.sum(2).transpose(1, 2)
        centres = F.fold(sums, grid, 3, padding=1) / F.fold(mass, grid, 3, padding=1)
    return centres, assignment


def attention_mask(mask_logits: Tensor, transferability: Tensor, threshold: Tensor, rule: str) -> Tensor:
    """The boolean mask (B, N, S) of Eq. 13 with mask threshold 0.5; empty rows attend everywhere."""
    inside = mask_logits >= 0 if rule == "foreground" else mask_logits <= 0
    allowed = inside & (transferability <= threshold[:, None])[:, None]
    return allowed | ~allowed.any(-1, keepdim=True)


def attention_sdpa(query, key, value, mask_logits, transferability, threshold, rule) -> Tensor:
    """`F.scaled_dot_product_attention` with a broadcast boolean mask built on the fly."""
    allowed = attention_mask(mask_logits, transferability, threshold, rule)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed[:, None])


def attention_mask2former(query, key, value, mask_logits, transferability, threshold, rule) -> Tensor:
    """Mask2Former's own path: sigmoid, threshold, a mask per head, rows reset, softmax of the whole score matrix."""
    heads = query.shape[1]
    inside = mask_logits.sigmoid() < 0.5 if rule == "foreground" else mask_logits.sigmoid() > 0.5
    blocked = inside | (transferability > threshold[:, None])[:, None]
    blocked = blocked[:, None].repeat(1, heads, 1, 1)
    blocked[torch.where(blocked.sum(-1) == blocked.shape[-1])] = False
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    return scores.masked_fill(blocked, -math.inf).softmax(-1) @ value
