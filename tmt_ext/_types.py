"""Typed results and the numbers that stand for names, shared by the operators and their reference."""

import enum
from typing import NamedTuple

from torch import Tensor


class Rule(enum.IntEnum):
    """What the mask must fulfil at a key for a query to attend there; numbers as in csrc/attention/decisions.h."""

    none = 0
    uncertain = 1
    foreground = 2


class Fallback(enum.IntEnum):
    """What a query with no allowed key attends to; numbers as in csrc/attention/decisions.h."""

    all = 0
    transfer = 1


class SuperpixelOutput(NamedTuple):
    """Result of `tmt_ext.superpixel`."""

    region_features: Tensor  # (B, C, h, w), dtype of the features
    assignment: Tensor  # (B, 9, H, W), dtype of the features, sums to 1 over dim 1
    labels: Tensor  # (B, H, W), int64 region index y * w + x


class PackedMask(NamedTuple):
    """Result of `tmt_ext.pack_mask` and `tmt_ext.pack_predicted_mask`."""

    bits: Tensor  # (B, N, ceil(S / 64)) int64, bit j % 64 of word j // 64: query n attends key j
    allowed: Tensor  # (B, N) int32, allowed keys before the fallback; 0: the row fell back
