"""The operators in plain PyTorch, for any floating dtype: in float64, the oracle every kernel is held against."""

from ._reference_attention import allowed_mask, masked_attention, pack_mask, pack_predicted_mask, unpack_bits
from ._reference_deformable import deformable_attention
from ._reference_superpixel import superpixel

__all__ = [
    "allowed_mask",
    "deformable_attention",
    "masked_attention",
    "pack_mask",
    "pack_predicted_mask",
    "superpixel",
    "unpack_bits",
]
