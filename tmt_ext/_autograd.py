"""Derivatives and vmap of the operators.

Autograd is registered with the dispatcher. torch.func's transforms and forward mode do not see it there: under them
the operators are called as the autograd.Functions below, which they do see. Those say what is not implemented; called
by the dispatcher alone, forward mode would silently give zeros and a second derivative would be silently wrong.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.library import register_autograd, register_vmap

OTHERWISE = "`with tmt_ext.plain_torch():` computes them, without the compiled kernels"


def superpixel(*arguments):
    """torch.ops.tmt.superpixel, under whatever transforms are at work."""
    if not _transformed():
        return torch.ops.tmt.superpixel(*arguments)
    return _apply(_Superpixel, _for_superpixel(arguments[0]), *arguments[1:])


def packed_attention(query, key, value, bits):
    """torch.ops.tmt.packed_attention, under whatever transforms are at work."""
    if not _transformed():
        return torch.ops.tmt.packed_attention(query, key, value, bits)
    return _apply(_Attention, *(_for_attention(x) for x in (query, key, value)), bits)


def deformable_attention(value, shapes, locations, weights):
    """torch.ops.tmt.deformable_attention, under whatever transforms are at work."""
    if not _transformed():
        return torch.ops.tmt.deformable_attention(value, shapes, locations, weights)
    return _apply(_Deformable, value, shapes, locations, weights)


def _transformed():
    """Whether torch.func's transforms or forward mode are at work; two look-ups in the usual case."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


@torch.compiler.disable(reason="a tmt_ext operator under torch.func's transforms or forward mode runs eagerly")
def _apply(function, *arguments):
    return function.apply(*arguments)  # whose rules torch.compile would pass over


# ---- autocast, which a Function is above of -------------------------------------------------------------------------


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """To `dtype`; what is float64, or no floating-point number, stays as it is."""
    return tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor


def _for_superpixel(features):
    return cast(features, torch.float32) if torch.is_autocast_enabled(features.device.type) else features


def _for_attention(tensor):
    device = tensor.device.type
    return cast(tensor, torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else tensor


# ---- vmap: images do not depend on each other, so a further dimension makes more of them ---------------------------


def _more_images(operator, info, in_dims, *arguments):
    """`operator`, all of whose tensors begin with the images (B, ...), on tensors that have one more dimension each."""

    def fold(argument, dim):
        if not isinstance(argument, Tensor):
            return argument
        many = argument.expand(info.batch_size, *argument.shape) if dim is None else argument.movedim(dim, 0)
        return many.flatten(0, 1)

    def unfold(result):
        return result.unflatten(0, (info.batch_size, result.shape[0] // info.batch_size))

    results = operator(*map(fold, arguments, in_dims))
    if isinstance(results, Tensor):
        return unfold(results), 0
    return tuple(map(unfold, results)), (0,) * len(results)


class _Operator(Function):
    """An operator for transforms; subclasses: `name`, `operator`, `compiled`, `setup_context` and `backward`."""

    name: ClassVar[str]
    operator: ClassVar[Callable[..., Any]]
    compiled: ClassVar[Callable[..., Any]]

    @classmethod
    def forward(cls, *arguments):
        return cls.compiled(*arguments)

    @classmethod
    def vmap(cls, info, in_dims, *arguments):
        return _more_images(cls.operator, info, in_dims, *arguments)

    @classmethod
    def jvp(cls, ctx, *tangents):
        raise RuntimeError(f"{cls.name}: forward-mode derivatives are not implemented; {OTHERWISE}")


class _Gradient(_Operator):
    """An operator's backward; subclasses: `name` and `compiled`."""

    @classmethod
    def operator(cls, *arguments):
        """The backward operator, as a Function where a second derivative or a transform may follow."""
        if _transformed():
            return _apply(cls, *arguments)
        return cls.apply(*arguments) if torch.is_grad_enabled() else cls.compiled(*arguments)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @classmethod
    def backward(cls, ctx, *gradients):
        raise RuntimeError(f"{cls.name}: second derivatives are not implemented; {OTHERWISE}")


# ---- superpixel -----------------------------------------------------------------------------------------------------


class _SuperpixelGradient(_Gradient):
    name = "superpixel"
    compiled = torch.ops.tmt.superpixel_backward


def _superpixel_setup(ctx, inputs, output):
    features, ctx.cell, ctx.iterations, ctx.kappa, _ = inputs
    _, _, labels, history, masses = output
    ctx.save_for_backward(features, history, masses)
    ctx.mark_non_differentiable(labels, history, masses)
    ctx.set_materialize_grads(False)


def _superpixel_backward(ctx, *gradients):
    grad_region_features, grad_assignment = gradients[:2]
    if grad_region_features is None and grad_assignment is None:
        return None, None, None, None, None
    features, history, masses = ctx.saved_tensors
    grad = _SuperpixelGradient.operator(
        grad_region_features, grad_assignment, features, history, masses, ctx.cell, ctx.iterations, ctx.kappa
    )
    return grad, None, None, None, None


class _Superpixel(_Operator):
    name = "superpixel"
    operator = staticmethod(superpixel)
    compiled = torch.ops.tmt.superpixel
    setup_context = staticmethod(_superpixel_setup)
    backward = staticmethod(_superpixel_backward)

    @classmethod
    def forward(cls, features, cell, iterations, kappa, _keep_history):
        return cls.compiled(features, cell, iterations, kappa)  # a transform may ask for a gradient later


register_autograd("tmt::superpixel", _superpixel_backward, setup_context=_superpixel_setup)


# ---- packed_attention -----------------------------------------------------------------------------------------------


class _AttentionGradient(_Gradient):
    name = "packed_attention"
    compiled = torch.ops.tmt.packed_attention_backward


def _attention_setup(ctx, inputs, output):
    query, key, value, bits = inputs
    ctx.save_for_backward(query, key, value, *output, bits)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _attention_backward(ctx, *gradients):
    if gradients[0] is None:
        return None, None, None, None
    query, key, value, output, lse, plan, bits = ctx.saved_tensors
    return *_AttentionGradient.operator(gradients[0], query, key, value, output, lse, plan, bits), None


class _Attention(_Operator):
    name = "packed_attention"
    operator = staticmethod(packed_attention)
    compiled = torch.ops.tmt.packed_attention
    setup_context = staticmethod(_attention_setup)
    backward = staticmethod(_attention_backward)


register_autograd("tmt::packed_attention", _attention_backward, setup_context=_attention_setup)


# ---- deformable_attention -------------------------------------------------------------------------------------------


class _DeformableGradient(_Gradient):
    name = "deformable_attention"
    compiled = torch.ops.tmt.deformable_attention_backward


def _deformable_setup(ctx, inputs, output):
    value, ctx.shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _deformable_backward(ctx, *gradients):
    value, locations, weights = ctx.saved_tensors
    deterministic = torch.are_deterministic_algorithms_enabled()
    grad_value, grad_locations, grad_weights = _DeformableGradient.operator(
        gradients[0], value, ctx.shapes, locations, weights, deterministic
    )
    return grad_value, None, grad_locations, grad_weights


class _Deformable(_Operator):
    name = "deformable_attention"
    operator = staticmethod(deformable_attention)
    compiled = torch.ops.tmt.deformable_attention
    setup_context = staticmethod(_deformable_setup)
    backward = staticmethod(_deformable_backward)


register_autograd("tmt::deformable_attention", _deformable_backward, setup_context=_deformable_setup)


# ---- vmap of operators without derivatives, and of those above where no transform needs their derivatives ----------


def _register_vmap(name, operator):
    register_vmap(f"tmt::{name}", lambda info, in_dims, *args: _more_images(operator, info, in_dims, *args))


_register_vmap("superpixel", superpixel)
_register_vmap("superpixel_backward", _SuperpixelGradient.operator)
_register_vmap("packed_attention", packed_attention)
_register_vmap("packed_attention_backward", _AttentionGradient.operator)
_register_vmap("deformable_attention", deformable_attention)
_register_vmap("deformable_attention_backward", _DeformableGradient.operator)
_register_vmap("pack_mask", torch.ops.tmt.pack_mask)
_register_vmap("pack_predicted_mask", torch.ops.tmt.pack_predicted_mask)
