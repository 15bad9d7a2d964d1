"""Parts of the model that stay in float32 under autocast share these two helpers."""

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


def full(tensor: Tensor) -> Tensor:
    """`tensor` in float32 where it is of half precision, else itself (float64 stays)."""
    return tensor.float() if tensor.dtype in HALF else tensor


def without_autocast(tensor: Tensor) -> torch.autocast:
    """A context in which operations on `tensor`'s device keep their inputs' dtype."""
    return torch.autocast(device_type=tensor.device.type, enabled=False)
