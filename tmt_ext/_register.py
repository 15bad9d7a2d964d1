"""Fake kernels and autocast of the operators; autograd: _autograd.py, schemas: csrc/library.cpp, kernels: csrc/*/cpu,
csrc/*/cuda."""

import torch
from torch.library import impl, register_fake

from ._autograd import cast


def _accumulate(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


# ---- fake kernels: shapes and dtypes of the results -----------------------------------------------------------------


@register_fake("tmt::superpixel")
def _(features, cell, iterations, kappa, keep_history=True):
    batch, channels, height, width = features.shape
    rows, columns = (height + cell - 1) // cell, (width + cell - 1) // cell
    kept = [(batch, iterations + 1, rows * columns, channels), (batch, iterations, rows * columns)]
    return (
        features.new_empty((batch, channels, rows, columns)),
        features.new_empty((batch, 9, height, width)),
        features.new_empty((batch, height, width), dtype=torch.int64),
        *(features.new_empty(s if keep_history else (0,), dtype=_accumulate(features.dtype)) for s in kept),
    )


@register_fake("tmt::superpixel_backward")
def _(grad_region_features, grad_assignment, features, history, masses, cell, iterations, kappa):
    return features.new_empty(features.shape)


@register_fake("tmt::pack_mask")
def _(mask_logits, transferability, transfer_threshold, mask_logit_threshold, rule, fallback, queries):
    given = transferability if mask_logits is None else mask_logits
    batch, keys = given.shape[0], given.shape[-1]
    return (
        given.new_empty((batch, queries, (keys + 63) // 64), dtype=torch.int64),
        given.new_empty((batch, queries), dtype=torch.int32),
    )


@register_fake("tmt::pack_predicted_mask")
def _(mask_embeddings, mask_features, transferability, transfer_threshold, mask_logit_threshold, rule, fallback):
    (batch, queries, _), keys = mask_embeddings.shape, mask_features.shape[2]
    return (
        mask_embeddings.new_empty((batch, queries, (keys + 63) // 64), dtype=torch.int64),
        mask_embeddings.new_empty((batch, queries), dtype=torch.int32),
    )


def _empty_in_order_of(tensor):
    """As the kernels lay out results like `tensor` (B, heads, rows, D): see csrc/attention/checks.h."""
    order = sorted(range(3), key=lambda d: -tensor.stride(d))
    return torch.empty_permuted(tensor.shape, (*order, 3), dtype=tensor.dtype, device=tensor.device)


def _plan_words(query, key, bits):
    """int64 words of an image's plan: KeyPlan in csrc/attention/cuda/plan.cuh."""
    dim = query.shape[3]
    half = query.dtype in (torch.bfloat16, torch.float16)
    if bits is None or query.device.type != "cuda" or not half or dim % 8 or dim > 128:
        return 0
    rows, tiles = (query.shape[2] + 15) // 16 * 16, (key.shape[2] + 63) // 64
    return tiles * (rows + 32) + rows // 2 + 2


@register_fake("tmt::packed_attention")
def _(query, key, value, bits):
    lse = query.new_empty(query.shape[:3], dtype=_accumulate(query.dtype))
    plan = query.new_empty((query.shape[0], _plan_words(query, key, bits)), dtype=torch.int64)
    return _empty_in_order_of(query), lse, plan


@register_fake("tmt::packed_attention_backward")
def _(grad_output, query, key, value, output, lse, plan, bits):
    return tuple(_empty_in_order_of(tensor) for tensor in (query, key, value))


@register_fake("tmt::deformable_attention")
def _(value, shapes, locations, weights):
    return value.new_empty((value.shape[0], locations.shape[1], value.shape[2] * value.shape[3]))


@register_fake("tmt::deformable_attention_backward")
def _(grad_output, value, shapes, locations, weights, deterministic):
    return tuple(tensor.new_empty(tensor.shape) for tensor in (value, locations, weights))


# ---- autocast: superpixels in float32; attention in the autocast dtype, its mask decisions untouched: what was given
# in float32 decides in float32. Deformable attention takes its values as the layer before made them ------------------


def _register_autocast(key, device):
    @impl("tmt::superpixel", key)
    def superpixel(features, *others):
        with torch.autocast(device, enabled=False):
            return torch.ops.tmt.superpixel(cast(features, torch.float32), *others)

    @impl("tmt::pack_predicted_mask", key)
    def pack_predicted_mask(mask_embeddings, mask_features, *others):
        dtype = torch.promote_types(mask_embeddings.dtype, mask_features.dtype)  # one may come from a layer cast down
        with torch.autocast(device, enabled=False):
            return torch.ops.tmt.pack_predicted_mask(mask_embeddings.to(dtype), mask_features.to(dtype), *others)

    @impl("tmt::packed_attention", key)
    def packed_attention(query, key, value, bits):
        dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            return torch.ops.tmt.packed_attention(*(cast(t, dtype) for t in (query, key, value)), bits)


_register_autocast("AutocastCPU", "cpu")
_register_autocast("AutocastCUDA", "cuda")
