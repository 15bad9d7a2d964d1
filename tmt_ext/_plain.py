"""A switch from the compiled operators to plain PyTorch, and the operators in that form.

They are those of `reference` with the kernels' dtypes: sums in float32, superpixels in float32 under autocast.
"""

import contextlib
import functools
import threading
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from . import _reference_attention, _reference_deformable, _reference_superpixel
from ._types import PackedMask, SuperpixelOutput

_here: ContextVar[bool] = ContextVar("tmt_ext.plain_torch", default=False)
_lock = threading.Lock()
_contexts = 0  # open in any thread: while there are none, nobody asks `_here`, which torch.compile cannot trace
_everywhere = False


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """In this context the operators are plain PyTorch: slower, but every derivative, transform and exporter works.

    It holds for the thread or task that entered it, and may be nested. The `bits` of `pack_mask` are then the (B, N, S)
    bool mask itself, which `packed_attention` accepts within the context only; there it accepts int64 words, too.
    `torch.compile` breaks its graph at an operator in such a context; after `set_plain_torch` it does not.
    """
    token = _here.set(True)
    _count(1)
    try:
        yield
    finally:
        _count(-1)
        _here.reset(token)


def set_plain_torch(enabled: bool) -> None:
    """Makes the operators plain PyTorch, or compiled again, in the whole process: see `plain_torch`."""
    global _everywhere
    _everywhere = enabled


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether the operators are plain PyTorch here, for these tensors: on Apple's GPUs (MPS) they always are."""
    if _everywhere or (_contexts > 0 and _is_plain_here()):
        return True
    if any(tensor is not None and tensor.device.type == "mps" for tensor in tensors):
        _tell_of_mps()
        return True
    return False


@functools.cache
def _tell_of_mps() -> None:
    """Once a process."""
    warnings.warn("tmt_ext: there are no kernels for MPS; its operators are plain PyTorch there, slower", stacklevel=4)


@torch.compiler.disable(reason="torch.compile cannot read a context variable")
def _is_plain_here():
    return _here.get()


def _count(change):
    global _contexts
    with _lock:
        _contexts += change


# ---- the operators --------------------------------------------------------------------------------------------------


def superpixel(features: Tensor, cell: int, iterations: int, kappa: float) -> SuperpixelOutput:
    """As `tmt_ext.superpixel`."""
    with _without_autocast(features) as autocast:
        found = _reference_superpixel.superpixel(_widened(features), cell, iterations=iterations, kappa=kappa)
    if autocast or features.dtype == found.assignment.dtype:
        return found
    regions, assignment, labels = found
    return SuperpixelOutput(regions.to(features.dtype), assignment.to(features.dtype), labels)


def pack_mask(mask_logits: Tensor | None, transferability: Tensor | None, **options: Any) -> PackedMask:
    """As `tmt_ext.pack_mask`, but for `bits`: the (B, N, S) bool mask; options: those of `reference.allowed_mask`."""
    return PackedMask(*_reference_attention.allowed_mask(mask_logits, transferability, **options))


def pack_predicted_mask(
    mask_embeddings: Tensor, mask_features: Tensor, transferability: Tensor | None, **options: Any
) -> PackedMask:
    """As `tmt_ext.pack_predicted_mask`, but for `bits`: the (B, N, S) bool mask; options: as for `pack_mask`."""
    with _without_autocast(mask_embeddings):
        logits = _widened(mask_embeddings.detach()) @ _widened(mask_features.detach())
    return pack_mask(logits, transferability, queries=mask_embeddings.shape[1], **options)


def packed_attention(query: Tensor, key: Tensor, value: Tensor, bits: Tensor | None) -> Tensor:
    """As `tmt_ext.packed_attention`; `bits` may also be the (B, N, S) bool mask."""
    allowed = bits if bits is None else _reference_attention.unpack_bits(bits, key.shape[2])
    with _without_autocast(query) as autocast:
        casts = autocast and query.dtype != torch.float64
        dtype = torch.get_autocast_dtype(query.device.type) if casts else query.dtype
        query, key, value = (_widened(x.to(dtype)) for x in (query, key, value))
        return _reference_attention.attention(query, key, value, allowed).to(dtype)


def deformable_attention(value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    """As `tmt_ext.deformable_attention`; shapes: flat."""
    sizes = list(zip(shapes[::2], shapes[1::2], strict=True))
    with _without_autocast(value):
        return _reference_deformable.deformable_attention(_widened(value), sizes, locations, weights).to(value.dtype)


def _widened(tensor):
    """In the dtype in which the kernels carry sums."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


@contextlib.contextmanager
def _without_autocast(tensor):
    """Yields whether autocast was on; exporters see nothing of it where it was off."""
    device = tensor.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        yield False
        return
    with torch.autocast(device, enabled=False):
        yield True
