"""A batch of images of several sizes, padded at the bottom and the right, without what its padding would do.

Nearly every part of the network looks at whole maps: windows, norms, superpixels, the quantile of T, attention. Rather
than to tell each of them what to leave out, a batch is cut into images of one size each; those go through the network
as they would alone, and what comes out is put into the frame of the padded batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils.generic import ModelOutput

from .inputs import OPERATION, is_traced
from .layout import covering
from .pixel_decoder import LEVELS

COARSE = (32, 16, 8)
"""Strides of what the decoder's layers attend to, in turn."""
STRIDES: Mapping[str, tuple[int, ...]] = {
    "masks_queries_logits": (4,),
    "encoder_last_hidden_state": (32,),
    "pixel_decoder_last_hidden_state": (4,),
    "transferability": (8,),
    "region_labels": (8,),
    "encoder_hidden_states": (4, 8, 16, 32),
    "pixel_decoder_hidden_states": COARSE,
}
"""Outputs that are maps (B, ..., H, W), and their strides; all others have one entry per image."""
NOWHERE = -100.0
"""A mask's logit in padding: a probability of zero, though a finite number, which may be resized."""
FILLED: Mapping[str, float] = {"masks_queries_logits": NOWHERE, "region_labels": -1}
"""What outputs are in padding, where not 0."""
Output = TypeVar("Output", bound=ModelOutput)


class Part(NamedTuple):
    """Images of one size."""

    size: tuple[int, int]  # height and width in pixels, without padding
    images: list[int]


class Frame(NamedTuple):
    """The sizes of a padded batch's images."""

    real: Tensor  # (B, H, W) bool, False in padding
    parts: list[Part]

    def cut(self, maps: Tensor, stride: int = 1) -> list[Tensor]:
        """maps (B, ..., H / stride, W / stride), sizes rounded up -> of each part its images, without padding."""
        cut = []
        for part in self.parts:
            height, width = covering(part.size, stride)
            cut.append(self.pick(maps, part)[..., :height, :width])
        return cut

    def pick(self, values: Tensor, part: Part) -> Tensor:
        """values (B, ...) -> those of a part's images."""
        return values[torch.tensor(part.images, device=values.device)]

    def cut_masks(self, mask_labels: Sequence[Tensor]) -> list[Tensor]:
        """mask_labels per image (n_i, H, W) -> without padding; raises ValueError for masks of another size."""
        cut = list(mask_labels)
        for part in self.parts:
            for i in part.images:
                if mask_labels[i].shape[-2:] != self.real.shape[1:]:
                    raise ValueError(
                        f"{OPERATION}: mask_labels[{i}] must be of the size of pixel_mask, "
                        f"{tuple(self.real.shape[1:])}, got {tuple(mask_labels[i].shape[-2:])}"
                    )
                cut[i] = mask_labels[i][..., : part.size[0], : part.size[1]]
        return cut

    def cut_transferability(self, given: Tensor | None) -> Sequence[Tensor | None]:
        """given (B, H / 8, W / 8) -> as `cut`; raises ValueError for a T of another size, whose padding is unknown."""
        if given is None:
            return [None] * len(self.parts)
        size = covering((self.real.shape[1], self.real.shape[2]), 8)
        if (given.shape[1], given.shape[2]) != size:
            raise ValueError(
                f"{OPERATION}: transferability must be {size} for padded images, at an eighth of their size, "
                f"got {tuple(given.shape[1:])}"
            )
        return self.cut(given, 8)

    def together(self, outputs: Sequence[Output], **more: Any) -> Output:
        """Outputs of the parts -> the output of the batch; `more` are fields that the parts do not have."""
        fields = {name: self._field(name, [one[name] for one in outputs]) for name in outputs[0].keys()}  # noqa: SIM118
        return type(outputs[0])(**fields, **more)

    def sizes(self, stride: int) -> Tensor:
        """Height and width (B, 2) int64 of the images' maps of a stride, without padding."""
        pieces = [torch.tensor(covering(part.size, stride)).expand(len(part.images), 2) for part in self.parts]
        return self._in_order(pieces).to(self.real.device)

    def _field(self, name: str, pieces: Sequence[Any]) -> Any:
        """One field of all parts' outputs: a tensor, a tuple of them, or a list of dictionaries of them."""
        first = pieces[0]
        if isinstance(first, list):
            each = zip(*pieces, strict=True)
            return [{key: self._field(key, [one[key] for one in same]) for key in same[0]} for same in each]
        if isinstance(first, tuple):
            return tuple(self._tensor(name, i, same) for i, same in enumerate(zip(*pieces, strict=True)))
        return self._tensor(name, 0, pieces)

    def _tensor(self, name: str, index: int, pieces: Sequence[Tensor]) -> Tensor:
        if name == "cross_attentions":
            return self._keys(pieces, COARSE[index % LEVELS])
        if name in STRIDES:
            return self._maps(pieces, STRIDES[name][index], FILLED.get(name, 0))
        return self._in_order(pieces)

    def _keys(self, pieces: Sequence[Tensor], stride: int) -> Tensor:
        """Weights (b, heads, N, S) over the positions of a map -> (B, heads, N, S), 0 in padding."""
        maps = [
            piece.unflatten(-1, covering(part.size, stride)) for piece, part in zip(pieces, self.parts, strict=True)
        ]
        return self._maps(maps, stride, 0).flatten(-2)

    def _maps(self, pieces: Sequence[Tensor], stride: int, fill: float) -> Tensor:
        """Maps (b, ..., h, w) of each part -> (B, ..., H, W), `fill` in padding."""
        height, width = covering((self.real.shape[1], self.real.shape[2]), stride)
        return self._in_order(
            [F.pad(piece, (0, width - piece.shape[-1], 0, height - piece.shape[-2]), value=fill) for piece in pieces]
        )

    def _in_order(self, pieces: Sequence[Tensor]) -> Tensor:
        """Entries (b, ...) of each part's images -> (B, ...)."""
        images = torch.tensor([i for part in self.parts for i in part.images])
        return torch.cat(list(pieces))[images.argsort().to(pieces[0].device)]


def frame_of(pixel_mask: Tensor | None, pixels: Tensor) -> Frame | None:
    """How images are padded; None: not at all.

    A GPU is waited for once, for the sizes; not with a mask in the CPU's memory.

    Args:
        pixel_mask: (B, H, W), 1 for the image and 0 for padding below it and right of it, of any dtype; None: all 1.
        pixels: (B, C, H, W).

    Raises:
        ValueError: a mask that does not fit the images, has other values, or is no rectangle at the top left; any mask
            while a trace or an export is recorded, which would keep one batch's sizes for all.
    """
    if pixel_mask is None:
        return None
    if is_traced() or torch.compiler.is_exporting():
        raise ValueError(
            f"{OPERATION}: pixel_mask must be None in a trace or an export, which would keep one batch's sizes for "
            "all; leave it out and give images without padding"
        )
    expected = (len(pixels), *pixels.shape[2:])
    if not isinstance(pixel_mask, Tensor) or tuple(pixel_mask.shape) != expected:
        got = tuple(pixel_mask.shape) if isinstance(pixel_mask, Tensor) else type(pixel_mask).__name__
        raise ValueError(f"{OPERATION}: pixel_mask must be a tensor {expected} as pixel_values are, got {got}")
    sizes = _sizes(pixel_mask)
    if all(size == expected[1:] for size in sizes):
        return None
    parts = [Part(size, [i for i, one in enumerate(sizes) if one == size]) for size in dict.fromkeys(sizes)]
    return Frame(pixel_mask.to(pixels.device) != 0, parts)


def _sizes(pixel_mask: Tensor) -> list[tuple[int, int]]:
    """pixel_mask (B, H, W) -> height and width of each image; raises ValueError as `frame_of` does."""
    real = pixel_mask != 0
    bottom, right = (_last(real.any(axis)) for axis in (2, 1))
    strange = (real & (pixel_mask != 1)).sum((1, 2))
    found = torch.stack([bottom, right, real.sum((1, 2)), strange], 1).tolist()
    for i, (height, width, count, others) in enumerate(found):
        if others:
            raise ValueError(f"{OPERATION}: pixel_mask[{i}] must be 0 or 1, got {others} pixels of other values")
        if not count or count != height * width:
            raise ValueError(
                f"{OPERATION}: pixel_mask[{i}] must be 1 in a rectangle at the top left and 0 elsewhere, got {count} "
                f"pixels of 1 within {height} x {width}; pad images below and on the right, and leave out empty ones"
            )
    return [(height, width) for height, width, _, _ in found]


def _last(present: Tensor) -> Tensor:
    """present (B, N) bool -> the number (B,) of the last that is, counted from 1; 0 for none."""
    return (present * torch.arange(1, present.shape[1] + 1, device=present.device)).amax(1)
