"""Swin's feed-forward layers at inference, in bands of positions: the inner tensor of all positions is never made.

At 2943x1435 pixels that one and its activation are 774 MiB of the 1616 that Swin-T takes.
"""

import torch
from torch import Tensor, nn
from transformers.models.swin.modeling_swin import SwinMLP

from .inputs import is_traced

BAND = 16384
"""Positions at a time."""


class BandedMLP(SwinMLP):
    """transformers' own, without autograd a band at a time."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """hidden_states (B, S, C) -> (B, S, C)."""
        if torch.is_grad_enabled() or _recorded() or hidden_states.shape[1] <= BAND:
            return super().forward(hidden_states)
        made = torch.empty_like(hidden_states)
        for band, result in zip(hidden_states.split(BAND, 1), made.split(BAND, 1), strict=True):
            result.copy_(super().forward(band))
        return made


def _recorded() -> bool:
    """Whether the calls become a graph, which has to serve other sizes too."""
    return is_traced() or torch.compiler.is_compiling()


def compute_in_bands(backbone: nn.Module) -> None:
    """Make a Swin's feed-forward layers such ones; nothing else of a backbone changes."""
    for module in backbone.modules():
        if type(module) is SwinMLP:
            module.__class__ = BandedMLP
