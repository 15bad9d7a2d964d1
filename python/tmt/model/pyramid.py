"""Four maps at strides 4, 8, 16 and 32 from the one map of a plain vision transformer.

The simple feature pyramid of ViTDet (Li et al., 2022, section 3): transposed convolutions and pooling, all from the
last map. Its 1x1 convolutions are those that the pixel decoder begins with.
"""

import torch
from torch import Tensor, nn

from .layout import STRIDES, covering, nominal_stride


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each position."""

    def forward(self, input: Tensor) -> Tensor:
        """input (B, C, H, W) -> (B, C, H, W)."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Pyramid(nn.Module):
    """From a map (B, C, ceil(H / patch), ceil(W / patch)) to four at strides 4, 8, 16, 32.

    A patch that is no power of two, such as 14, is taken for the nearest one, and its maps are resized: each position
    then has the value that lies at its place in the image.

    Raises:
        ConfigError: a patch too far from 4, 8, 16 and 32.
    """

    def __init__(self, channels: int, patch: int):
        super().__init__()
        nominal = nominal_stride(patch)
        self.scale = patch / nominal
        self.levels = nn.ModuleList(_level(channels, nominal / stride) for stride in STRIDES)
        self.channels = [max(1, int(channels / max(1, nominal / stride))) for stride in STRIDES]

    def forward(self, x: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """x (B, C, h, w) of an image of `size` (H, W) -> (B, C_i, ceil(H / stride), ceil(W / stride))."""
        return [
            self._placed(level(x), covering(size, stride)) for level, stride in zip(self.levels, STRIDES, strict=True)
        ]

    def _placed(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        if self.scale == 1:
            return x[..., : size[0], : size[1]]
        # Not F.interpolate, which derives the scale from the two sizes: they are rounded, the places would drift.
        return torch.ops.aten.upsample_bilinear2d(x, size, False, self.scale, self.scale)

    @torch.no_grad()
    def reset(self) -> None:
        """Draw random weights that keep the variance."""
        for part in self.modules():
            if isinstance(part, nn.ConvTranspose2d):
                nn.init.normal_(part.weight, std=part.in_channels**-0.5)
                nn.init.zeros_(part.bias)  # type: ignore[arg-type]  # it has one


def _level(channels: int, factor: float) -> nn.Sequential:
    """Enlarges (B, C, h, w) `factor` times, halving C each time, or makes it 1 / `factor` times smaller."""
    if factor < 1:
        return nn.Sequential(nn.MaxPool2d(round(1 / factor), ceil_mode=True))
    parts: list[nn.Module] = []
    while factor > 1:
        fewer = max(1, channels // 2)
        parts += [ChannelNorm(channels), nn.GELU()] if parts else []
        parts.append(nn.ConvTranspose2d(channels, fewer, 2, 2))
        channels, factor = fewer, factor / 2
    return nn.Sequential(*parts)
