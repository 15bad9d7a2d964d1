"""Segmenting one image: whole or in sliding windows, at several scales and mirrored, the class scores averaged.

Evaluation in training, `tmt.evaluate`, `tmt.predict` and pictures all come here. Beside one (K, H, W) accumulator of
scores only those of one pass are in memory.
"""

import math
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tmt.errors import TMTError
from tmt.model import TMTForSemanticSegmentation, TMTOutput, present
from tmt.runtime.precision import autocast
from tmt.settings import InferenceConfig

WHOLE = InferenceConfig()


class Span(NamedTuple):
    """What one window covers of an axis, in pixels of the image."""

    start: int
    stop: int
    share: Tensor
    """(stop - start,) float32: 1 / the number of windows that cover each pixel."""

    @property
    def slice(self) -> slice:
        """For indexing."""
        return slice(self.start, self.stop)


class Pass(NamedTuple):
    """One application of the network to a part of the image."""

    rows: Span
    columns: Span
    size: tuple[int, int]
    """Height and width at which the network sees that part."""
    flip: bool
    part: float
    """Weight of this scale and direction in the average; times the windows' shares, weights add up to 1 everywhere."""

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width, in pixels of the image."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


@dataclass(frozen=True)
class Segmentation:
    """What a model makes of an image of H x W pixels; K classes."""

    scores: Tensor
    """(K, H, W) float32, mean of the class scores; not normalised, the largest class is the prediction."""
    behaviour: Tensor
    """(2, layers) float64, mean over passes of each decoder layer's allowed fraction and fallback rate."""
    transferability: Tensor | None = None
    """(H, W) float32 in [0, 1], mean over passes, where asked for and the model has one."""
    regions: Tensor | None = None
    """(H, W) int64, region of each pixel; of one pass over the whole image only."""

    def prediction(self) -> Tensor:
        """(H, W) int64 train ids."""
        return self.scores.argmax(0)

    def confidence(self) -> Tensor:
        """(H, W) float32 in [0, 1], the prediction's part of all classes' scores."""
        return self.scores.amax(0) / self.scores.sum(0).clamp(min=torch.finfo(torch.float32).tiny)


@torch.no_grad()
def segment(
    model: TMTForSemanticSegmentation,
    pixels: Tensor,
    inference: InferenceConfig = WHOLE,
    maps: bool = False,
    name: str = "the image",
) -> Segmentation:
    """Apply a segmentation model in evaluation mode to an image.

    Args:
        pixels: (1, 3, H, W), normalised, on the model's device.
        inference: windows, scales and mirroring. Each window is judged on its own: its T and the threshold on T too.
        maps: whether transferability and regions are wanted.
        name: of the image, for messages.

    Raises:
        TMTError: scores that are not finite, of which the largest would mean nothing; a GPU's memory that is too small.
    """
    size = (pixels.shape[-2], pixels.shape[-1])
    passes = plan(size, inference)
    scores = transferability = regions = None
    behaviour = torch.zeros((), dtype=torch.float64)
    for one in passes:
        outputs = _apply(model, pixels, one, inference.amp)
        part = _flip(model.semantic_probabilities(outputs, one.extent), one)[0]
        _check_finite(name, inference.amp, part, outputs.transferability)
        scores = _add(scores, part, one, size)
        statistics = [present(outputs.allowed_fraction)[0], present(outputs.fallback_rate)[0]]
        behaviour = behaviour + torch.stack(statistics).double().cpu()
        if maps and outputs.transferability is not None:
            part = _flip(enlarge(outputs.transferability, one.extent), one)
            transferability = _add(transferability, part, one, size)
            regions = enlarge(present(outputs.region_labels), size)[0] if len(passes) == 1 else None
    transferability = None if transferability is None else transferability[0]
    return Segmentation(present(scores), behaviour / len(passes), transferability, regions)


def plan(size: tuple[int, int], inference: InferenceConfig) -> list[Pass]:
    """The passes over an image of `size` (height, width)."""
    flips = (False, True) if inference.flip else (False,)
    part = 1 / (len(flips) * len(inference.scales))
    passes = []
    for scale in inference.scales:
        for rows, columns in product(*(_spans(axis, size[axis], scale, inference) for axis in (0, 1))):
            height, width = (max(1, round(len(span.share) * scale)) for span in (rows, columns))
            passes += [Pass(rows, columns, (height, width), flip, part) for flip in flips]
    return passes


def _spans(axis: int, length: int, scale: float, inference: InferenceConfig) -> list[Span]:
    """Windows along one axis (0 down, 1 across) of `length` pixels, the last one moved back to end with the image."""
    if inference.window is None:
        return [Span(0, length, torch.ones(length))]
    side = inference.window[axis]
    stride = inference.stride[axis] if inference.stride else math.ceil(2 * side / 3)
    window, stride = min(length, max(1, round(side / scale))), max(1, int(stride / scale))
    count = 1 + math.ceil((length - window) / stride)  # a stride is at most the window: no pixel is left out
    starts = [min(i * stride, length - window) for i in range(count)]
    covered = torch.zeros(length)
    for start in starts:
        covered[start : start + window] += 1
    return [Span(start, start + window, 1 / covered[start : start + window]) for start in starts]


def _apply(model: nn.Module, pixels: Tensor, one: Pass, amp: bool) -> TMTOutput:
    """The model's outputs for one pass over pixels (1, 3, H, W)."""
    part = pixels[..., one.rows.slice, one.columns.slice]
    if one.size != one.extent:  # antialiased, as training images are resized
        part = interpolate(part, size=one.size, mode="bilinear", align_corners=False, antialias=True)
    try:
        with autocast(pixels.device, amp):
            return model(pixel_values=_flip(part, one))
    except torch.OutOfMemoryError as error:
        height, width = pixels.shape[-2:]
        raise TMTError(
            f"segment: image of {height}x{width} pixels does not fit into the GPU's memory, seen at "
            f"{one.size[0]}x{one.size[1]}; use --window 512,1024 or another smaller one"
        ) from error


def _check_finite(name: str, amp: bool, scores: Tensor, transferability: Tensor | None) -> None:
    for what, values in (("class scores", scores), ("transferability", transferability)):
        if values is not None and not values.isfinite().all():
            share = (~values.isfinite()).float().mean().item()
            mend = "use --amp false" if amp else "use another checkpoint"
            raise TMTError(f"{name}: {what} must be finite, got {share:.0%} that are not; {mend}")


def _flip(plane: Tensor, one: Pass) -> Tensor:
    """A plane (..., H, W) mirrored left to right where the pass is."""
    return plane.flip(-1) if one.flip else plane


def _add(total: Tensor | None, part: Tensor, one: Pass, size: tuple[int, int]) -> Tensor:
    """Add `part` (C, h, w) by its weight to the accumulator (C, H, W), which the first part is where it is whole."""
    part = part.mul_(torch.outer(one.rows.share * one.part, one.columns.share).to(part.device))
    if total is None and one.extent == size:
        return part
    if total is None:
        total = part.new_zeros(len(part), *size)
    total[:, one.rows.slice, one.columns.slice] += part
    return total


def enlarge(plane: Tensor, size: tuple[int, int]) -> Tensor:
    """A map (1, h, w) at `size` by nearest neighbour, (1, H, W) of the same dtype."""
    return interpolate(plane[:, None].double(), size=size, mode="nearest")[:, 0].to(plane.dtype)
