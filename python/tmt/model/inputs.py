"""What a model is called with: said in one line where it cannot be used, rather than by a layer far inside."""

from typing import Any

import torch
from torch import Tensor
from torch.jit._trace import is_tracing

from tmt.runtime.precision import autocasts

OPERATION = "TMTForSemanticSegmentation"


def check_pixels(pixels: Any, channels: int, dtype: torch.dtype) -> None:
    """Raise ValueError where pixel_values are no (B, channels, H, W) that weights of `dtype` take."""
    if not isinstance(pixels, Tensor):
        raise ValueError(f"{OPERATION}: pixel_values must be a tensor, got {type(pixels).__name__}; use torch.stack")
    shape = tuple(pixels.shape)
    if len(shape) != 4 or shape[1] != channels:
        mend = "give one image as image[None]" if len(shape) == 3 else "convert images with the model's processor"
        raise ValueError(f"{OPERATION}: pixel_values must be (B, {channels}, H, W), got {shape}; {mend}")
    if not (shape[0] and shape[2] and shape[3]):
        raise ValueError(f"{OPERATION}: pixel_values must hold at least one pixel, got {shape}; leave out empty images")
    if not pixels.is_floating_point():
        raise ValueError(
            f"{OPERATION}: pixel_values must be floating and normalised, got {_name(pixels.dtype)}; "
            "convert images with the model's processor"
        )
    if pixels.dtype != dtype and not autocasts(pixels):
        raise ValueError(
            f"{OPERATION}: pixel_values must be {_name(dtype)} as the weights are, got {_name(pixels.dtype)}; "
            "use pixel_values.to(model.dtype)"
        )


def check_transferability(given: Tensor | None, batch: int) -> None:
    """Raise ValueError where T, given instead of the computed one, is no (batch, h, w)."""
    if given is not None and (given.ndim != 3 or len(given) != batch):
        raise ValueError(f"{OPERATION}: transferability must be ({batch}, h, w), got {tuple(given.shape)}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def is_traced() -> bool:
    """Whether `torch.jit.trace` records operations, and takes every number that is not a tensor for a constant."""
    return is_tracing()  # type: ignore[attr-defined]  # documented, but not exported


def bound_to_size(pixels: Tensor) -> Tensor:
    """pixels (B, C, H, W), of which `torch.jit.trace` records that they must have this size.

    A trace keeps every number that was computed from the size; at another one its results would be wrong.
    """
    if not is_traced() or torch.onnx.is_in_onnx_export():
        return pixels
    height, width = (int(side) for side in pixels.shape[2:])
    return torch.jit.script(_require_size)(pixels, height, width)


def _require_size(pixels: Tensor, height: int, width: int) -> Tensor:
    if pixels.shape[2] != height or pixels.shape[3] != width:
        raise ValueError(
            f"TMTForSemanticSegmentation: pixel_values must be (B, C, {height}, {width}), the size that was traced, "
            f"got {pixels.shape}; trace the model anew"
        )
    return pixels


def check_no_trace() -> None:
    """Raise ValueError where `torch.jit.trace` would keep one batch's matching of queries and masks for all."""
    if is_traced():
        raise ValueError(f"{OPERATION}: mask_labels must be None under torch.jit.trace, which cannot record the loss")
