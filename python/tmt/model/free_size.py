"""Swin for an export whose image size is free: windows by index, so that nothing is recorded of one size only.

transformers' layers pad, roll and cut, and ask on the way whether there is padding, or one window: the exporter answers
for the size that it traces with, and the file then refuses others.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.swin.modeling_swin import SwinLayer

from .layout import covering

APART = -100.0
"""What is added to the scores of positions that a shifted window brings together from opposite borders, as in Swin."""


@dataclass(frozen=True)
class Windows:
    """How a map is cut into windows of `side` x `side`: they begin `shift` down and across and go on at the borders."""

    size: tuple[int, int]
    """H, W; a map is filled up to a multiple of `side`."""
    side: int
    shift: int

    def cut(self, tokens: Tensor) -> Tensor:
        """tokens (B, H * W, C) -> (B * windows, side * side, C), zeros where a window leaves the map."""
        (height, width), (y, x) = self.size, self._places(tokens)
        index = torch.where((y < height) & (x < width), y * width + x, height * width)
        return F.pad(tokens, (0, 0, 0, 1))[:, index.flatten()].reshape(-1, self.side**2, tokens.shape[2])

    def join(self, windows: Tensor, batch: int) -> Tensor:
        """windows (B * windows, side * side, C) -> (B, H * W, C)."""
        _, columns = covering(self.size, self.side)
        y, x = self._wrapped(-self.shift, windows.device)
        y, x = y[: self.size[0]], x[: self.size[1]]
        window = (y // self.side)[:, None] * columns + x // self.side  # (H, W)
        index = window * self.side**2 + (y % self.side)[:, None] * self.side + x % self.side
        return windows.reshape(batch, -1, windows.shape[2])[:, index.flatten()]

    def mask(self, like: Tensor) -> Tensor | None:
        """(windows, side * side, side * side), `APART` or 0, to be added to scores; None without a shift."""
        if not self.shift:
            return None
        y, x = self._places(like)
        border = (2 * (y < self.shift) + 1 * (x < self.shift)).reshape(-1, self.side**2)
        return (border[:, :, None] != border[:, None]).to(like.dtype) * APART

    def _places(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """y (rows, 1, side, 1) and x (1, columns, 1, side) of the positions in each window of the filled map."""
        y, x = (line.unflatten(0, (-1, self.side)) for line in self._wrapped(self.shift, like.device))
        return y[:, None, :, None], x[None, :, None]

    def _wrapped(self, by: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """y and x in the filled map, each `by` further on; who leaves it at one end comes back at the other."""
        filled = [count * self.side for count in covering(self.size, self.side)]
        y, x = (torch.arange(by, length + by, device=device) for length in filled)
        return _within(y, filled[0]), _within(x, filled[1])


def _within(moved: Tensor, length: int) -> Tensor:
    """moved % length, of at most one length too far: ONNX takes no remainder by a size that is free."""
    return torch.where(moved >= length, moved - length, torch.where(moved < 0, moved + length, moved))


class FreeLayer(SwinLayer):
    """transformers' own as a backbone calls it, always in windows."""

    def forward(self, hidden_states: Tensor, input_dimensions: tuple[int, int], **options: Any) -> Any:
        """hidden_states (B, H * W, C), input_dimensions (H, W) -> (B, H * W, C), and no weights."""
        windows = Windows(input_dimensions, int(self.window_size), int(self.shift_size))
        hidden = self.layernorm_before(hidden_states)
        attended, _ = self.attention(windows.cut(hidden), windows.mask(hidden))
        hidden = hidden_states + windows.join(attended, len(hidden))
        return hidden + self.mlp(self.layernorm_after(hidden)), None


@contextmanager
def free_size(model: nn.Module) -> Iterator[None]:
    """Within, a model's Swin layers are such ones, their attention plain PyTorch; in evaluation only."""
    layers: list[Any] = [module for module in model.modules() if type(module) is SwinLayer]
    configs = {id(layer.attention.config): layer.attention.config for layer in layers}.values()
    implementations = [config._attn_implementation for config in configs]
    for layer in layers:
        layer.__class__ = FreeLayer
    for config in configs:
        config._attn_implementation = "eager"  # torch's own asks whether there is one window
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = SwinLayer
        for config, implementation in zip(configs, implementations, strict=True):
            config._attn_implementation = implementation
