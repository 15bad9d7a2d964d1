"""Thresholded masked cross-attention (Eqs. 12-13) in plain PyTorch: the oracle of the kernels.

Everything is written out, the N x S mask and scores included; nothing here is meant to be fast.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ._types import PackedMask

WORD = 64  # keys per word of packed bits


def allowed_mask(
    mask_logits: Tensor | None = None,
    transferability: Tensor | None = None,
    *,
    mask_threshold: float = 0.5,
    transfer_threshold: Tensor | float | None = None,
    rule: str = "uncertain",
    fallback: str = "all",
    queries: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Where each query may attend (Eq. 13), one bool per query and key.

    Both tests are made in float32; the mask's in logit space. NaN is never allowed.

    Args:
        mask_logits: (B, N, S) or None; transferability: (B, S) or None; transfer_threshold: (B,) or a number.
        mask_threshold: probability in [0, 1]; rule: "uncertain" (m <= logit), "foreground" (m >= logit), "none".
        fallback: what a row with nothing allowed attends to: "all" keys, or "transfer", those that T allows, if any.
        queries: N, where mask_logits is None.

    Returns:
        (B, N, S) bool after the fallback, and (B, N) int32: how many keys were allowed before it.
    """
    shape = _mask_shape(mask_logits, transferability, queries)
    given = transferability if mask_logits is None else mask_logits
    device = None if given is None else given.device
    everywhere = torch.ones(shape, dtype=torch.bool, device=device)
    by_transfer = everywhere & _transfer_test(transferability, transfer_threshold)
    allowed = by_transfer & _mask_test(mask_logits, mask_threshold, rule)
    count = allowed.sum(-1, dtype=torch.int32)
    if fallback == "transfer":
        everywhere = by_transfer | ~by_transfer.any(-1, keepdim=True)
    return allowed | (count == 0).unsqueeze(-1) & everywhere, count  # logic: ONNX Runtime selects no bools


def pack_mask(
    mask_logits: Tensor | None = None,
    transferability: Tensor | None = None,
    *,
    mask_threshold: float = 0.5,
    transfer_threshold: Tensor | float | None = None,
    rule: str = "uncertain",
    fallback: str = "all",
    queries: int | None = None,
) -> PackedMask:
    """`allowed_mask` with 64 keys to an int64 word: bit j % 64 of word j // 64 is key j. See `tmt_ext.pack_mask`."""
    allowed, count = allowed_mask(
        mask_logits,
        transferability,
        mask_threshold=mask_threshold,
        transfer_threshold=transfer_threshold,
        rule=rule,
        fallback=fallback,
        queries=queries,
    )
    return PackedMask(pack_bits(allowed), count)


def pack_predicted_mask(
    mask_embeddings: Tensor, mask_features: Tensor, transferability: Tensor | None = None, **options: Any
) -> PackedMask:
    """`pack_mask` of the logits mask_embeddings (B, N, E) @ mask_features (B, E, S). See `tmt_ext.pack_predicted_mask`.

    Args:
        transferability: (B, S) or None; options: those of `pack_mask`.
    """
    return pack_mask(mask_embeddings @ mask_features, transferability, **options)


def pack_bits(allowed: Tensor) -> Tensor:
    """(B, N, S) bool -> (B, N, ceil(S / 64)) int64; padding bits are 0."""
    batch, queries, keys = allowed.shape
    words = -(-keys // WORD)
    padded = torch.nn.functional.pad(allowed, (0, words * WORD - keys)).reshape(batch, queries, words, WORD)
    weights = torch.ones((), dtype=torch.int64, device=allowed.device) << torch.arange(WORD, device=allowed.device)
    return (padded * weights).sum(-1)  # bit 63 is the sign: the sum of distinct powers of two wraps to the right word


def unpack_bits(bits: Tensor, keys: int) -> Tensor:
    """(B, N, ceil(S / 64)) int64 -> (B, N, S) bool; a (B, N, S) bool mask stays as it is."""
    if bits.dtype == torch.bool:
        return bits
    shifts = torch.arange(WORD, device=bits.device)
    return ((bits.unsqueeze(-1) >> shifts) & 1).bool().flatten(-2)[..., :keys]


def masked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask_logits: Tensor | None = None,
    transferability: Tensor | None = None,
    *,
    mask_threshold: float = 0.5,
    transfer_threshold: Tensor | float | None = None,
    rule: str = "uncertain",
    fallback: str = "all",
) -> Tensor:
    """softmax over the allowed keys of q k^T / sqrt(D), times v (Eq. 12). See `tmt_ext.masked_attention`.

    Args:
        query: (B, heads, N, D); key, value: (B, heads, S, D); the rest: see `allowed_mask`.

    Returns:
        (B, heads, N, D), differentiable with respect to query, key and value.
    """
    if mask_logits is None and transferability is None:
        return attention(query, key, value, None)
    allowed, _ = allowed_mask(
        mask_logits,
        transferability,
        mask_threshold=mask_threshold,
        transfer_threshold=transfer_threshold,
        rule=rule,
        fallback=fallback,
        queries=query.shape[2],
    )
    return attention(query, key, value, allowed)


def attention(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None) -> Tensor:
    """Attention where `allowed` (B, N, S) is true, for every head alike; a row with nothing allowed gives 0."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])  # (B, heads, N, S)
    if allowed is None:
        return scores.softmax(-1) @ value
    allowed = allowed.unsqueeze(1)
    weights = scores.masked_fill(~allowed, -math.inf).softmax(-1)
    return weights.masked_fill(~allowed, 0.0) @ value


def _mask_shape(mask_logits, transferability, queries) -> tuple[Any, ...]:
    if mask_logits is not None:
        return mask_logits.shape
    return transferability.shape[0], queries, transferability.shape[1]


def _mask_test(mask_logits, mask_threshold, rule):
    """(B, N, S) bool, or True where the mask does not decide."""
    if mask_logits is None or rule == "none":
        return torch.tensor(True)
    threshold = torch.logit(torch.tensor(mask_threshold, dtype=torch.float64)).float()
    logits = mask_logits.detach().float()
    return logits <= threshold if rule == "uncertain" else logits >= threshold


def _transfer_test(transferability, transfer_threshold):
    """(B, 1, S) bool, or True where there is no transferability."""
    if transferability is None:
        return torch.tensor(True)
    threshold = torch.as_tensor(transfer_threshold, dtype=torch.float32, device=transferability.device)
    return (transferability.detach().float() <= threshold.reshape(-1, 1)).unsqueeze(1)
