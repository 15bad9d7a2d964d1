"""TMT's operators: superpixels, thresholded masked attention and deformable attention, with autograd, for CPU and CUDA.

superpixel(features, cell)                     Eqs. 6-9 of the paper
masked_attention(query, key, value, ...)       Eqs. 12-13
pack_mask, packed_attention                    the two halves of masked_attention
pack_predicted_mask                            pack_mask of logits that are a matrix product, never stored
deformable_attention(value, shapes, ...)       Deformable DETR's, of Mask2Former's pixel decoder
plain_torch, set_plain_torch                   switch all of them to plain PyTorch: every derivative, ONNX
reference                                      the same in plain PyTorch: the oracle of the tests
build_info()                                   what this build is made of
"""

import torch  # noqa: F401  (the extension's symbols live in torch's libraries, which must be loaded first)

from . import _library

_library.load()

from . import _register, reference  # noqa: E402, F401  (registration needs the loaded schemas)
from ._plain import plain_torch, set_plain_torch  # noqa: E402
from ._types import Fallback, PackedMask, Rule, SuperpixelOutput  # noqa: E402
from .ops import (  # noqa: E402
    deformable_attention,
    masked_attention,
    pack_mask,
    pack_predicted_mask,
    packed_attention,
    superpixel,
)

build_info = _library.build_info

__all__ = [
    "Fallback",
    "PackedMask",
    "Rule",
    "SuperpixelOutput",
    "build_info",
    "deformable_attention",
    "masked_attention",
    "pack_mask",
    "pack_predicted_mask",
    "packed_attention",
    "plain_torch",
    "reference",
    "set_plain_torch",
    "superpixel",
]
