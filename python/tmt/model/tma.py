"""Transferable Masked Attention (TMA): queries attend to a level's features where mask logits and T allow."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tmt_ext
from tmt.settings import AttentionSettings

SMALLEST_DIVERGENCE = 1e-6  # 1 - T is kept at or above this, so that its logarithm is finite


class LevelTransferability(NamedTuple):
    """T at one level of the decoder."""

    values: Tensor  # (B, S) float32
    threshold: Tensor  # (B,) float32, lambda_T: positions above it are excluded


class Mask(NamedTuple):
    """Where each query may attend at one layer."""

    bits: Tensor | None  # (B, N, ceil(S / 64)) int64 as `tmt_ext.pack_mask` packs them; None: everywhere
    bias: Tensor | None  # (B, S) added to the attention scores; None: nothing
    allowed_fraction: Tensor  # (B,) mean share of keys allowed before the fallback
    fallback_rate: Tensor  # (B,) share of queries with no allowed key


class Attention(NamedTuple):
    """Result of an attention of N queries over S keys."""

    output: Tensor  # (B, N, C)
    weights: Tensor | None  # (B, heads, N, S) when recorded


def level_transferability(transferability: Tensor, size: tuple[int, int], fraction: float) -> LevelTransferability:
    """T (B, h, w) -> T at a level of `size` (H_l, W_l) by area, and lambda_T, its (1 - fraction) quantile per image.

    The share `fraction` of positions with the highest T lies above the threshold; positions equal to it stay.
    """
    resized = transferability.float()
    if resized.shape[-2:] != size:
        resized = F.interpolate(resized[:, None], size=size, mode="area")[:, 0]
    values = resized.flatten(1)
    return LevelTransferability(values, torch.quantile(values, 1.0 - fraction, dim=1))


def passing(transfer: LevelTransferability) -> Tensor:
    """Index (B, M) of the positions whose T is at most the threshold, in their order, M the most of any image.

    An image with fewer has positions that fail behind them, which no query attends.
    """
    passes = transfer.values <= transfer.threshold[:, None]
    return passes.byte().sort(dim=1, descending=True, stable=True).indices[:, : int(passes.sum(1).max())]


@dataclass(frozen=True)
class AttentionMaskBuilder:
    """Eq. 13: combines the mask rule and the transferability condition."""

    settings: AttentionSettings

    @property
    def drops_keys(self) -> bool:
        """Whether T keeps queries from attending, rather than only weighing down, where it is high."""
        return self.settings.transfer_mode == "mask"

    @torch.no_grad()
    def __call__(
        self, mask_embeddings: Tensor, mask_features: Tensor, transfer: LevelTransferability | None, positions: int
    ) -> Mask:
        """Where queries may attend.

        Args:
            mask_embeddings: (B, N, E); mask_features: (B, E, S): their product are the mask logits, never stored.
            transfer: T at the S keys, or None.
            positions: of which the allowed fraction is taken: S and the keys that were dropped beforehand.
        """
        bias, hard = None, transfer
        if transfer is not None and not self.drops_keys:
            bias, hard = torch.log((1.0 - transfer.values).clamp(min=SMALLEST_DIVERGENCE)), None
        if self.settings.mask_rule == "none" and hard is None:
            ones = torch.ones(len(mask_features), device=mask_features.device)
            return Mask(None, bias, ones, torch.zeros_like(ones))
        packed = self._pack(mask_embeddings, mask_features, hard)
        allowed = packed.allowed.float()
        return Mask(packed.bits, bias, allowed.mean(1) / positions, (allowed == 0).float().mean(1))

    def _pack(
        self, mask_embeddings: Tensor, mask_features: Tensor, hard: LevelTransferability | None
    ) -> tmt_ext.PackedMask:
        """Arguments as `__call__` -> decisions as bits."""
        condition: dict[str, Any] = {"fallback": self.settings.fallback}
        if hard is not None:
            condition |= {"transferability": hard.values, "transfer_threshold": hard.threshold}
        if self.settings.mask_rule == "none":
            return tmt_ext.pack_mask(rule="none", queries=mask_embeddings.shape[1], **condition)
        return tmt_ext.pack_predicted_mask(
            mask_embeddings,
            mask_features,
            mask_threshold=self.settings.mask_threshold,
            rule=self.settings.mask_rule,
            **condition,
        )


class TransferableMaskedAttention(nn.Module):
    """Multi-head cross-attention over allowed keys only (Eq. 12). Parameters are named as nn.MultiheadAttention's."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Mask, record: bool = False) -> Attention:
        """query (B, N, C), key and value (B, S, C), mask shared by the heads -> Attention.

        The compiled operator computes it without an N x S matrix; a soft bias, and weights to `record`, take the
        plain path that has one.
        """
        weights = zip(self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        query, key, value = (
            self._heads(F.linear(x, w, b)) for x, (w, b) in zip((query, key, value), weights, strict=True)
        )
        recorded = attention_weights(query, key, mask) if record or mask.bias is not None else None
        if recorded is not None and mask.bias is not None:
            attended = recorded @ value
        else:
            attended = tmt_ext.packed_attention(query, key, value, mask.bits)
        return Attention(self.out_proj(attended.transpose(1, 2).flatten(2)), recorded if record else None)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, heads, L, C / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def attention_weights(query: Tensor, key: Tensor, mask: Mask) -> Tensor:
    """query (B, heads, N, D), key (B, heads, S, D) -> softmax over the allowed keys (B, heads, N, S), plain torch."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if mask.bias is not None:
        scores = scores + mask.bias[:, None, None, :].to(scores.dtype)
    if mask.bits is not None:
        allowed = tmt_ext.reference.unpack_bits(mask.bits, key.shape[2])
        scores = scores.masked_fill(~allowed[:, None], -math.inf)
    return scores.softmax(-1).to(query.dtype)
