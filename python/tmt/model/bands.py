"""Layers at inference, in bands: what they make inside, of all positions, is never there at once.

At 2943x1435 pixels the inner tensor of a feed-forward layer takes 387 MiB in Swin-T, 340 in the pixel decoder.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.swin import modeling_swin

from .inputs import is_traced

BAND = 16384
"""Positions at a time."""
MLP: type[Any] = getattr(modeling_swin, "SwinMLP", nn.Module)
ATTENTION: type[Any] = modeling_swin.SwinAttention
"""transformers' own. Its first versions of 5 have other layers, which stay as they are."""


def in_bands(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """layer(x) of x (B, S, C), a function of each position by itself; without autograd a band of them at a time."""
    if needs_whole() or x.shape[1] <= BAND:
        return layer(x)
    made = torch.empty_like(x)
    for band, result in zip(x.split(BAND, 1), made.split(BAND, 1), strict=True):
        result.copy_(layer(band))
    return made


class BandedMLP(MLP):
    """transformers' own, without autograd a band at a time."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """hidden_states (B, S, C) -> (B, S, C)."""
        return in_bands(super().forward, hidden_states)


class BandedAttention(ATTENTION):
    """transformers' own, without autograd some windows at a time; only where it returns no weights."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """hidden_states (B * windows, W, C), attention_mask (windows, W, W) -> (B * windows, W, C), no weights."""
        if needs_whole():
            return super().forward(hidden_states, attention_mask, **options)
        windows = max(1, BAND // hidden_states.shape[1])
        alike = attention_mask is None or len(attention_mask) == len(hidden_states)  # a mask for each window
        sdpa = self.config._attn_implementation == "sdpa" and not options.get("output_attentions")
        if len(hidden_states) <= windows or not (alike and sdpa):
            return super().forward(hidden_states, attention_mask, **options)
        made = torch.empty_like(hidden_states)
        for first in range(0, len(made), windows):
            band = slice(first, first + windows)
            mask = None if attention_mask is None else attention_mask[band]
            made[band] = super().forward(hidden_states[band], mask, **options)[0]
        return made, None


def needs_whole() -> bool:
    """Whether gradients are wanted, or the calls become a graph, which has to serve other sizes too."""
    return torch.is_grad_enabled() or is_traced() or torch.compiler.is_compiling()


def compute_in_bands(backbone: nn.Module) -> None:
    """Make a Swin's feed-forward and attention layers such ones; nothing else of a backbone changes."""
    if MLP is nn.Module:
        return
    for module in backbone.modules():
        for own, banded in ((MLP, BandedMLP), (ATTENTION, BandedAttention)):
            if type(module) is own:
                module.__class__ = banded
