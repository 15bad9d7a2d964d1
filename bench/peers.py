"""What users would write without the extension, each at its best; the operators are timed against these."""

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

EPS = 1e-6  # smallest norm, as in the operator
FLEX_BLOCK = 128  # queries and keys of a block, FlexAttention's default

# ---- superpixels: (features (B, C, H, W), cell, iterations, kappa) -> region features (B, C, h, w) -------------------


def superpixel_unfold(features: Tensor, cell: int, iterations: int, kappa: float) -> Tensor:
    """Pixels grouped by cell; `F.unfold` of the centres; matrix products; partial sums by `F.fold`.

    H and W must be divisible by `cell`. Pixels come last, so that the products are (9, C) by (C, pixels), which takes
    half the time of (pixels, C) by (C, 9); norms are applied to the scores, so that there is no second map.
    """
    grid = features.shape[2] // cell, features.shape[3] // cell
    pixels, sharpness = _grouped(features, cell, kappa)  # (B, h * w, C, pixels), (B, h * w, 1, pixels)
    exists = F.unfold(features.new_ones(1, 1, *grid), 3, padding=1).mT[..., None].bool()  # (1, h * w, 9, 1)
    centres = F.avg_pool2d(features, cell)  # (B, C, h, w)
    for _ in range(iterations):
        around = F.unfold(F.normalize(centres, dim=1, eps=EPS), 3, padding=1).unflatten(1, (-1, 9))
        scores = around.permute(0, 3, 2, 1) @ pixels * sharpness
        assignment = scores.masked_fill(~exists, -math.inf).softmax(2)  # (B, h * w, 9, pixels)
        sums = (pixels @ assignment.mT).permute(0, 2, 3, 1).flatten(1, 2)
        mass = assignment.sum(3).mT
        centres = F.fold(sums, grid, 3, padding=1) / F.fold(mass, grid, 3, padding=1)
    return centres


def _grouped(features: Tensor, cell: int, kappa: float) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) -> pixels by cell (B, h * w, C, pixels), and kappa over their norms (B, h * w, 1, pixels)."""
    rows, columns = features.shape[2] // cell, features.shape[3] // cell
    pixels = features.unflatten(3, (columns, cell)).unflatten(2, (rows, cell)).permute(0, 2, 4, 1, 3, 5)
    pixels = pixels.flatten(1, 2).flatten(3)
    return pixels, kappa / pixels.square().sum(2, keepdim=True).sqrt().clamp_min(EPS)


def superpixel_windows(features: Tensor, cell: int, iterations: int, kappa: float) -> Tensor:
    """The unfold form with strided views of the centres instead of `F.unfold` and padded sums instead of `F.fold`."""
    shape = (len(features), features.shape[2] // cell, features.shape[3] // cell)
    pixels, sharpness = (x.flatten(0, 1) for x in _grouped(features, cell, kappa))  # (B * h * w, C, pixels)
    exists = _windows(features.new_ones(*shape, 1)).bool()  # (B * h * w, 9, 1)
    centres = F.avg_pool2d(features, cell).permute(0, 2, 3, 1)  # (B, h, w, C)
    for _ in range(iterations):
        scores = torch.bmm(_windows(F.normalize(centres, dim=-1, eps=EPS)), pixels) * sharpness
        assignment = scores.masked_fill(~exists, -math.inf).softmax(1)  # (B * h * w, 9, pixels)
        sums = torch.bmm(assignment, pixels.mT)
        centres = _folded(sums, shape) / _folded(assignment.sum(2, keepdim=True), shape)
    return centres.permute(0, 3, 1, 2)


def _windows(centres: Tensor) -> Tensor:
    """(B, h, w, C) -> the 3x3 neighbours of each cell (B * h * w, 9, C), 0 outside."""
    padded = F.pad(centres, (0, 0, 1, 1, 1, 1))
    return padded.unfold(1, 3, 1).unfold(2, 3, 1).permute(0, 1, 2, 4, 5, 3).reshape(-1, 9, centres.shape[-1])


def _folded(parts: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """What each cell has for its 3x3 neighbours (B * h * w, 9, C) -> sum at each neighbour (B, h, w, C)."""
    parts = parts.view(*shape, 3, 3, -1)
    parts = sum(F.pad(parts[:, :, :, i], (0, 0, 0, 0, 0, 0, i, 2 - i)) for i in range(3))
    return sum(F.pad(parts[:, :, :, j], (0, 0, j, 2 - j)) for j in range(3))[:, 1:-1, 1:-1]


# A version for each shape.
compiled_unfold = functools.cache(lambda: torch.compile(superpixel_unfold, dynamic=False))
compiled_windows = functools.cache(lambda: torch.compile(superpixel_windows, dynamic=False))


def superpixel_scatter(features: Tensor, cell: int, iterations: int, kappa: float) -> Tensor:
    """Every pixel gathers its 9 centres one by one and adds its share to each of them by `index_add`."""
    batch, channels, height, width = features.shape
    rows, columns = height // cell, width // cell
    pixels = features.flatten(2).transpose(1, 2).contiguous()  # (B, H * W, C)
    sharpness = kappa / pixels.norm(dim=-1).clamp_min(EPS)
    regions, exists = _neighbours(height, width, cell, features.device)  # (9, H * W)
    centres = F.avg_pool2d(features, cell).flatten(2).transpose(1, 2)  # (B, h * w, C)
    for _ in range(iterations):
        unit = F.normalize(centres, dim=-1, eps=EPS)
        scores = torch.stack([(pixels * unit[:, region]).sum(-1) * sharpness for region in regions], 1)
        assignment = scores.masked_fill(~exists, -math.inf).softmax(1)  # (B, 9, H * W)
        sums, mass = torch.zeros_like(centres), centres.new_zeros(batch, rows * columns)
        for region, share in zip(regions, assignment.unbind(1), strict=True):
            sums = sums.index_add(1, region, share[..., None] * pixels)
            mass = mass.index_add(1, region, share)
        centres = sums / mass[..., None]
    return centres.transpose(1, 2).unflatten(2, (rows, columns))


def _neighbours(height: int, width: int, cell: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Region index of each pixel's 9 neighbours (9, H * W), clamped to the grid, and whether they exist."""
    offsets = torch.arange(-1, 2, device=device)
    row = (torch.arange(height, device=device) // cell + offsets[:, None])[:, None, :, None]  # (3, 1, H, 1)
    column = (torch.arange(width, device=device) // cell + offsets[:, None])[None, :, None, :]  # (1, 3, 1, W)
    rows, columns = height // cell, width // cell
    exists = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    regions = row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)
    return regions.flatten(0, 1).flatten(1), exists.flatten(0, 1).flatten(1)


# ---- deformable attention: value (B, S, heads, D), shapes (levels, 2), locations (B, Q, heads, levels, points, 2),
# ---- weights (B, Q, heads, levels, points) -> (B, Q, heads * D) -----------------------------------------------------


deformable_transformers = multi_scale_deformable_attention  # grid_sample for each level, every sample stored
compiled_deformable = functools.cache(lambda: torch.compile(multi_scale_deformable_attention, dynamic=False))


# ---- attention: query (B, heads, N, D), key and value (B, heads, S, D), mask_logits (B, N, S), transferability (B, S),
# ---- threshold (B,), rule "uncertain" or "foreground" with mask threshold 0.5 -> (B, heads, N, D) --------------------


def allowed_before_fallback(mask_logits: Tensor, transferability: Tensor, threshold: Tensor, rule: str) -> Tensor:
    """Eq. 13 as booleans (B, N, S)."""
    inside = mask_logits >= 0 if rule == "foreground" else mask_logits <= 0
    return inside & (transferability <= threshold[:, None])[:, None]


def attention_sdpa(query, key, value, mask_logits, transferability, threshold, rule) -> Tensor:
    """`F.scaled_dot_product_attention` with a broadcast boolean mask built on the fly."""
    allowed = allowed_before_fallback(mask_logits, transferability, threshold, rule)
    allowed = allowed | ~allowed.any(-1, keepdim=True)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed[:, None])


def attention_gathered(query, key, value, mask_logits, transferability, threshold, rule) -> Tensor:
    """SDPA after gathering the keys that pass T; a query left without any attends all keys in a second pass."""
    passes = transferability <= threshold[:, None]
    count = int(passes.sum(1).max())
    kept = passes.byte().sort(dim=1, descending=True, stable=True).indices[:, :count]  # (B, count)
    some = kept[:, None, :, None].expand(-1, key.shape[1], -1, key.shape[3])
    logits = mask_logits.gather(2, kept[:, None].expand(-1, mask_logits.shape[1], -1))
    inside = logits >= 0 if rule == "foreground" else logits <= 0
    allowed = inside & passes.gather(1, kept)[:, None]
    fallen = ~allowed.any(-1, keepdim=True)  # (B, N, 1)
    gathered = key.gather(2, some), value.gather(2, some)
    output = F.scaled_dot_product_attention(query, *gathered, attn_mask=(allowed | fallen)[:, None])
    rows = fallen.any(0)[:, 0].nonzero()[:, 0]  # queries that fell back in some image
    if len(rows) == 0:
        return output
    everywhere = F.scaled_dot_product_attention(query[:, :, rows], key, value)
    return output.index_copy(2, rows, torch.where(fallen[:, None, rows], everywhere, output[:, :, rows]))


def attention_mask2former(query, key, value, mask_logits, transferability, threshold, rule) -> Tensor:
    """Mask2Former's own path in transformers: sigmoid, threshold, a mask per head, rows reset, nn.MultiheadAttention.

    The latter as that decoder layer calls it, asking for weights: mask in floating point, baddbmm, softmax, bmm,
    weights averaged over the heads.
    """
    heads, size = query.shape[1], query.shape[-1]
    probability = mask_logits.sigmoid()
    blocked = probability < 0.5 if rule == "foreground" else probability > 0.5
    blocked = blocked | (transferability > threshold[:, None])[:, None]
    blocked = blocked[:, None].repeat(1, heads, 1, 1).flatten(0, 1)  # (B * heads, N, S)
    blocked = blocked * (blocked.sum(-1) != blocked.shape[-1])[..., None]
    mask = torch.zeros_like(blocked, dtype=query.dtype).masked_fill_(blocked, -math.inf)
    q, k, v = (x.flatten(0, 1) for x in (query, key, value))
    weights = torch.baddbmm(mask, q * math.sqrt(1.0 / size), k.transpose(1, 2)).softmax(-1)
    output = torch.bmm(weights, v).unflatten(0, (-1, heads))
    weights.unflatten(0, (-1, heads)).mean(1)
    return output


def attention_flex(query, key, value, mask_logits, transferability, threshold, rule) -> Tensor:
    """FlexAttention, compiled, skipping blocks of 128 keys that no query attends; on the CPU it has no backward."""
    allowed, count, order = compiled_blocks()(mask_logits, transferability, threshold, rule)

    def attends(b, h, n, j):
        return allowed[b, n, j]

    lengths = mask_logits.shape[1:]
    blocks = BlockMask.from_kv_blocks(count, order, BLOCK_SIZE=FLEX_BLOCK, mask_mod=attends, seq_lengths=lengths)
    return compiled_flex()(query, key, value, block_mask=blocks)


def _blocks(mask_logits: Tensor, transferability: Tensor, threshold: Tensor, rule: str) -> tuple[Tensor, ...]:
    """Booleans (B, N, S), number (B, 1, N / 128) of blocks of keys to visit, and which (B, 1, N / 128, S / 128)."""
    allowed = allowed_before_fallback(mask_logits, transferability, threshold, rule)
    allowed = allowed | ~allowed.any(-1, keepdim=True)
    rows, keys = (-size % FLEX_BLOCK for size in allowed.shape[1:])
    tiles = F.pad(allowed, (0, keys, 0, rows)).unflatten(2, (-1, FLEX_BLOCK)).unflatten(1, (-1, FLEX_BLOCK))
    visited = tiles.any(4).any(2).int()[:, None]
    order = visited.sort(dim=-1, descending=True, stable=True).indices.int()
    return allowed, visited.sum(-1, dtype=torch.int32), order


# A version for each shape. `create_block_mask` itself does not compile for the CPU at 100 queries.
compiled_blocks = functools.cache(lambda: torch.compile(_blocks, dynamic=False))
compiled_flex = functools.cache(lambda: torch.compile(flex_attention, dynamic=False))
