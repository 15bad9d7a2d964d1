"""Where half precision is used, and what stays in float32 under autocast."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


def full(tensor: Tensor) -> Tensor:
    """`tensor` in float32 where it is of half precision, else itself (float64 stays)."""
    return tensor.float() if tensor.dtype in HALF else tensor


def without_autocast(tensor: Tensor) -> AbstractContextManager:
    """A context in which operations on `tensor`'s device keep their inputs' dtype."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def autocasts(tensor: Tensor) -> bool:
    """Whether autocast is on where `tensor` is; the meta device has none."""
    device = tensor.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def autocast(device: torch.device, enabled: bool) -> torch.autocast:
    """bfloat16 autocast on CUDA where enabled; nothing on the CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled and device.type == "cuda")
