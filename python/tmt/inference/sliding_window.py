"""Segmenting one image: whole or in sliding windows, at several scales and mirrored, the class scores averaged.

Evaluation in training, `tmt.evaluate`, `tmt.predict` and pictures all come here. There is never a (K, H, W) map of
scores. A pass leaves its queries' mask logits, Q x h/4 x w/4 float32 of the h x w pixels that the network saw; of them
scores are formed band by band of rows, and of a band only labels, confidence and entropy stay. In memory, beside what
the network takes for one pass, are the mask logits of the passes that cover rows of one band (of a whole image, all
scales and directions; of windows, about two rows of them, however high it is) and a few times the scores of one strip
of `semantic.STRIP` mask values. One pass over a whole image leaves Q / 16 numbers a pixel, where a map of scores has K.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tmt.errors import TMTError
from tmt.model import Queries, TMTForSemanticSegmentation, TMTOutput, present
from tmt.model.evidence import normalised, normalised_entropy
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

    prediction: Tensor
    """(H, W) int64 train ids: the class of the largest score, mean over passes."""
    behaviour: Tensor
    """(2, layers) float64, mean over passes of each decoder layer's allowed fraction and fallback rate."""
    confidence: Tensor | None = None
    """(H, W) float32 in [0, 1], the prediction's part of all classes' scores, where asked for."""
    transferability: Tensor | None = None
    """(H, W) float32 in [0, 1], mean over passes, where asked for and the model has one."""
    regions: Tensor | None = None
    """(H, W) int64, region of each pixel; of one pass over the whole image only."""
    entropy: Tensor | None = None
    """(H, W) float32 in [0, 1], of the class scores, 1 where all classes are alike, where asked for."""


def segment(
    model: TMTForSemanticSegmentation,
    pixels: Tensor,
    inference: InferenceConfig = WHOLE,
    maps: bool = False,
    confidence: bool = False,
    name: str = "the image",
    entropy: bool = False,
) -> Segmentation:
    """Apply a segmentation model in evaluation mode to an image, pixels (1, 3, H, W); see `segment_batch`."""
    return segment_batch(model, pixels, (name,), inference, maps, confidence, entropy)[0]


@torch.no_grad()
def segment_batch(
    model: TMTForSemanticSegmentation,
    pixels: Tensor,
    names: Sequence[str],
    inference: InferenceConfig = WHOLE,
    maps: bool = False,
    confidence: bool = False,
    entropy: bool = False,
) -> list[Segmentation]:
    """Apply a segmentation model in evaluation mode to images of one size, which go through the network together.

    Args:
        pixels: (B, 3, H, W), normalised, on the model's device.
        names: of the B images, for messages.
        inference: height, windows, scales and mirroring. Each window is judged on its own: its T and the threshold on
            T too.
        maps: whether transferability and regions are wanted.
        confidence: whether that is wanted.
        entropy: whether that is wanted.

    Raises:
        TMTError: scores that are not finite, of which the largest would mean nothing; a GPU's memory that is too small.
    """
    size = (pixels.shape[-2], pixels.shape[-1])
    inference = at_height(inference, model.config.image_height, size[0])
    seen = _Seen(model, pixels, names, inference, maps, plan(size, inference))
    prediction = torch.empty(len(pixels), *size, dtype=torch.int64, device=pixels.device)
    sure, unsure = (
        torch.empty(len(pixels), *size, device=pixels.device) if on else None for on in (confidence, entropy)
    )
    for top, bottom, judged in seen.bands():
        for image, name in enumerate(names):
            scores = _scores(judged, image, top, bottom, size[1], partial(_check_finite, name, inference.amp))
            prediction[image, top:bottom] = scores.argmax(0)
            if sure is not None:
                sure[image, top:bottom] = scores.amax(0) / scores.sum(0).clamp(min=torch.finfo(torch.float32).tiny)
            if unsure is not None:
                unsure[image, top:bottom] = normalised_entropy(normalised(scores[None])[0], 0)
    behaviour = torch.stack([seen.behaviour[i] for i in range(len(seen.passes))]).mean(0)
    optional = (_each(part, len(names)) for part in (sure, seen.transferability, seen.regions, unsure))
    return [Segmentation(*parts) for parts in zip(prediction, behaviour, *optional, strict=True)]


def _each(planes: Tensor | None, count: int) -> Sequence[Tensor | None]:
    return [None] * count if planes is None else list(planes)


class _Judged(NamedTuple):
    """What is kept of one pass, until the bands have left its rows behind."""

    one: Pass
    queries: Queries

    @property
    def strip(self) -> int:
        """Rows that are formed at a time, as if the image were alone: a product's bits may depend on its extent."""
        return self.queries.image(0).strip(self.one.extent[1])

    def strips(self, top: int, bottom: int) -> Iterator[tuple[int, int]]:
        """The strips, counted from the window's top, that hold its rows between the image's rows top and bottom."""
        first, last = max(0, top - self.one.rows.start), min(bottom, self.one.rows.stop) - self.one.rows.start
        for start in range(first - first % self.strip, last, self.strip):
            yield start, min(start + self.strip, self.one.extent[0])


@dataclass
class _Seen:
    """The passes over images, applied when the bands reach them."""

    model: TMTForSemanticSegmentation
    pixels: Tensor
    names: Sequence[str]
    inference: InferenceConfig
    maps: bool
    passes: list[Pass]
    behaviour: dict[int, Tensor] = field(default_factory=dict)
    """By pass, (B, 2, layers)."""
    transferability: Tensor | None = None
    regions: Tensor | None = None

    def bands(self) -> Iterator[tuple[int, int, list[_Judged]]]:
        """Rows of the image from top to bottom, (top, bottom), with the passes that cover some, in their first order.

        A band ends where a window begins, or after the highest strip. Strips that lie across its ends are formed twice.
        """
        waiting = deque(sorted(range(len(self.passes)), key=lambda i: self.passes[i].rows.start))
        judged: dict[int, _Judged] = {}
        top, height = 0, self.pixels.shape[-2]
        while top < height:
            judged = {i: one for i, one in judged.items() if one.one.rows.stop > top}
            while waiting and self.passes[waiting[0]].rows.start <= top:
                index = waiting.popleft()
                judged[index] = self._judge(index)
            begins = self.passes[waiting[0]].rows.start if waiting else height
            bottom = min(begins, top + max(one.strip for one in judged.values()))
            yield top, bottom, [judged[i] for i in sorted(judged)]
            top = bottom

    def _judge(self, index: int) -> _Judged:
        one = self.passes[index]
        outputs = _apply(self.model, self.pixels, one, self.inference.amp, self.names[0])
        statistics = [present(outputs.allowed_fraction), present(outputs.fallback_rate)]
        self.behaviour[index] = torch.stack(statistics, 1).double().cpu()
        if outputs.transferability is not None:
            for name, plane in zip(self.names, outputs.transferability, strict=True):
                _check_finite(name, self.inference.amp, plane, "transferability")
            if self.maps:
                self._add_maps(outputs, one)
        logits = present(outputs.class_queries_logits), present(outputs.masks_queries_logits)
        return _Judged(one, Queries.of(*logits))

    def _add_maps(self, outputs: TMTOutput, one: Pass) -> None:
        size = (self.pixels.shape[-2], self.pixels.shape[-1])
        part = _flip(enlarge(present(outputs.transferability), one.extent), one)
        self.transferability = _add(self.transferability, part, one, size)
        self.regions = enlarge(present(outputs.region_labels), size) if len(self.passes) == 1 else None


def _scores(
    judged: Sequence[_Judged], image: int, top: int, bottom: int, width: int, check: Callable[[Tensor], None]
) -> Tensor:
    """(K, bottom - top, W) float32, mean over passes of the class scores in the image's rows top to bottom."""
    total = None
    for by in judged:
        one, queries = by.one, by.queries.image(image)
        for first, last in by.strips(top, bottom):
            part = _flip(queries.scores(first, last, one.extent)[0], one)
            check(part)
            part = _weighted(part, one, slice(first, last))
            begin, end = max(top, one.rows.start + first), min(bottom, one.rows.start + last)
            part = part[:, begin - one.rows.start - first : end - one.rows.start - first]
            if total is None and part.shape[1:] == (bottom - top, width):
                total = part
                continue
            total = part.new_zeros(len(part), bottom - top, width) if total is None else total
            total[:, begin - top : end - top, one.columns.slice] += part
    return present(total)


def at_height(inference: InferenceConfig, trained: int | None, height: int) -> InferenceConfig:
    """How to segment images of a height in pixels by a model that was trained at another, `trained`: its scales are
    factors on that height, or on the one that the settings ask for."""
    wanted = trained if inference.height is None else inference.height
    if not wanted or wanted == height:
        return inference
    return replace(inference, scales=tuple(scale * wanted / height for scale in inference.scales))


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


def part_of(pixels: Tensor, one: Pass) -> Tensor:
    """What the network sees of pixels (B, 3, H, W) in one pass."""
    part = pixels[..., one.rows.slice, one.columns.slice]
    if one.size != one.extent:  # antialiased, as training images are resized
        part = interpolate(part, size=one.size, mode="bilinear", align_corners=False, antialias=True)
    return _flip(part, one)


def _apply(model: nn.Module, pixels: Tensor, one: Pass, amp: bool, name: str) -> TMTOutput:
    """The model's outputs for one pass over pixels (B, 3, H, W), the first of them of the image `name`."""
    try:
        with autocast(pixels.device, amp):
            return model(pixel_values=part_of(pixels, one))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):  # of a norm, where the coarsest map is one position
            raise
        height, width = one.size
        raise TMTError(
            f"{name}: image must be larger, got {height}x{width} pixels as the model sees it, a single position of its "
            "coarsest map; enlarge it"
        ) from error
    except torch.OutOfMemoryError as error:
        height, width = pixels.shape[-2:]
        raise TMTError(
            f"segment: image of {height}x{width} pixels does not fit into the GPU's memory, seen at "
            f"{one.size[0]}x{one.size[1]}; use --window 512,1024 or another smaller one"
        ) from error


def _check_finite(name: str, amp: bool, values: Tensor, what: str = "class scores") -> None:
    if not values.isfinite().all():
        share = (~values.isfinite()).float().mean().item()
        mend = "use --amp false" if amp else "use another checkpoint"
        raise TMTError(f"{name}: {what} must be finite, got {share:.0%} that are not; {mend}")


def _flip(plane: Tensor, one: Pass) -> Tensor:
    """A plane (..., H, W) mirrored left to right where the pass is."""
    return plane.flip(-1) if one.flip else plane


def _add(total: Tensor | None, part: Tensor, one: Pass, size: tuple[int, int]) -> Tensor:
    """Add `part` (C, h, w) by its weight to the accumulator (C, H, W), which the first part is where it is whole."""
    part = _weighted(part, one, slice(None))
    if total is None and one.extent == size:
        return part
    if total is None:
        total = part.new_zeros(len(part), *size)
    total[:, one.rows.slice, one.columns.slice] += part
    return total


def _weighted(part: Tensor, one: Pass, rows: slice) -> Tensor:
    """`part` (C, h, w), these rows of a pass, times its weight, in place."""
    return part.mul_(torch.outer(one.rows.share[rows] * one.part, one.columns.share).to(part.device))


def enlarge(plane: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, h, w) at `size` by nearest neighbour, (B, H, W) of the same dtype."""
    return interpolate(plane[:, None].double(), size=size, mode="nearest")[:, 0].to(plane.dtype)


def enlarged(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An array (h, w) at `size` by nearest neighbour, (H, W) float64."""
    return enlarge(torch.from_numpy(np.ascontiguousarray(values))[None].double(), size)[0].numpy()
