"""The pixel decoder: from a backbone's maps to mask features and three maps that have seen each other.

Mask2Former's multi-scale deformable attention over strides 32, 16 and 8, then a feature pyramid up to stride 4. Weights
have the names of transformers' modules; the attention itself is `tmt_ext.deformable_attention`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Mask2FormerConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoder,
    Mask2FormerPixelDecoderEncoderLayer,
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention,
)

import tmt_ext

from .bands import BAND, in_bands, needs_whole

LEVELS = 3  # strides 32, 16, 8

Sizes = tuple[tuple[int, int], ...]
"""Height and width of each level."""


class Decoded(NamedTuple):
    """Result of the pixel decoder."""

    mask_features: Tensor  # (B, E, H / 4, W / 4)
    maps: tuple[Tensor, ...]  # (B, C, H / 32, W / 32), (B, C, H / 16, W / 16), (B, C, H / 8, W / 8)


class DeformableAttention(Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention):
    """Each position attends to a few places of every level, which it chooses itself (Deformable DETR, Eq. 3)."""

    def forward(self, hidden: Tensor, positions: Tensor, references: Tensor, sizes: Sizes) -> Tensor:
        """hidden (B, S, C), positions (1, S, C), references (S, 2) in [0, 1], x before y -> (B, S, C)."""
        heads = (self.n_heads, self.n_levels, self.n_points)
        asking = hidden + positions
        value = self.value_proj(hidden).unflatten(2, (self.n_heads, -1))
        weights = softmax(self.attention_weights(asking).unflatten(2, (self.n_heads, -1)))
        offsets = self.sampling_offsets(asking).unflatten(2, (*heads, 2))
        pixel = 1 / _sides(sizes, offsets)[:, None]  # (levels, 1, 2)
        locations = torch.addcmul(references[:, None, None, None], offsets, pixel)
        return self.output_proj(tmt_ext.deformable_attention(value, sizes, locations, weights.unflatten(3, heads[1:])))


class EncoderLayer(GradientCheckpointingLayer, Mask2FormerPixelDecoderEncoderLayer):
    """Deformable attention and feed-forward, each with a residual connection and a norm behind it."""

    def forward(self, hidden: Tensor, positions: Tensor, references: Tensor, sizes: Sizes) -> Tensor:
        """Arguments and result as `DeformableAttention.forward`."""
        attended = self._drop(self.self_attn(hidden, positions, references, sizes))
        hidden = self.self_attn_layer_norm(_add(self.self_attn.output_proj, attended, hidden))
        fed = self._drop(in_bands(self._feed_forward, hidden))
        return self.final_layer_norm(_add(self.fc2, fed, hidden))

    def _feed_forward(self, hidden: Tensor) -> Tensor:
        """(B, S, C) -> (B, S, C)."""
        return self.fc2(self._drop(self._activated(hidden)))

    def _activated(self, hidden: Tensor) -> Tensor:
        """(B, S, C) -> (B, S, F)."""
        inner = self.fc1(hidden)
        return inner.relu_() if type(self.fc1) is nn.Linear else self.activation_fn(inner)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class PixelDecoder(Mask2FormerPixelDecoder):
    """The whole pixel decoder, in its weights' dtype."""

    def __init__(self, config: Mask2FormerConfig, feature_channels: Sequence[int]):
        super().__init__(config, feature_channels)
        layers: Any = self.encoder.layers
        for layer in layers:  # made as transformers makes them; only what they compute is ours
            layer.__class__ = EncoderLayer
            layer.self_attn.__class__ = DeformableAttention

    def forward(self, features: Sequence[Tensor]) -> Decoded:
        """The backbone's maps (B, C_i, H_i, W_i), finest first -> mask features and three maps."""
        maps = [_project(layers, x) for layers, x in zip(self.input_projections, features[::-1][:LEVELS], strict=True)]
        sizes = tuple((x.shape[2], x.shape[3]) for x in maps)
        hidden = self._encode(torch.cat([x.flatten(2).mT for x in maps], 1), sizes)  # (B, S, C)
        levels = hidden.split([height * width for height, width in sizes], 1)
        outputs = tuple(x.mT.unflatten(2, size) for x, size in zip(levels, sizes, strict=True))
        finest = outputs[-1]
        for level in range(self.num_fpn_levels, 0, -1):
            finest = self._merged(level, finest, features[level - 1])
            for layer in cast(nn.Sequential, self.get_submodule(f"layer_{level}")):
                finest = _apply(layer, finest)  # none of them is kept while the next works
        return Decoded(self._mask_features(finest), outputs)

    def _merged(self, level: int, coarse: Tensor, feature: Tensor) -> Tensor:
        """coarse (B, C, h, w), feature (B, C_i, H, W) -> their sum (B, C, H, W)."""
        lateral = _project(self.get_submodule(f"adapter_{level}"), feature)
        if needs_whole() or coarse.device.type != "cpu":
            return enlarge(coarse, (lateral.shape[2], lateral.shape[3])).add_(lateral)
        return _add_enlarged(lateral, coarse)

    def _mask_features(self, finest: Tensor) -> Tensor:
        """finest (B, C, H, W) -> (B, E, H, W), contiguous, as those want it that read a channel at a time."""
        layer = self.mask_projection
        if not _is_product(layer):
            return layer(finest).contiguous()
        assert layer.bias is not None
        weight = layer.weight.flatten(1).expand(finest.shape[0], -1, -1)  # `@` would make a contiguous copy of the maps
        return torch.baddbmm(layer.bias[:, None], weight, finest.flatten(2)).unflatten(2, finest.shape[2:])

    def _encode(self, hidden: Tensor, sizes: Sizes) -> Tensor:
        """hidden (B, S, C) -> (B, S, C)."""
        embedded = self._positions(hidden, sizes)
        references = reference_points(sizes, hidden)
        for layer in self.encoder.layers:
            hidden = layer(hidden, embedded, references, sizes)
        return hidden

    def _positions(self, like: Tensor, sizes: Sizes) -> Tensor:
        """(1, S, C): where a position lies in its map, and in which."""
        found = [
            self.position_embedding((1, like.shape[2], *size), like.device, like.dtype).flatten(2).mT + level
            for size, level in zip(sizes, self.level_embed, strict=True)
        ]
        return torch.cat(found, 1)


def _sides(sizes: Sizes, like: Tensor) -> Tensor:
    """Width and height of each level (levels, 2), of numbers that an export may not know yet."""
    sides = [torch.scalar_tensor(side, dtype=like.dtype, device=like.device) for size in sizes for side in size[::-1]]
    return torch.stack(sides).unflatten(0, (-1, 2))


def _add(layer: nn.Module, made: Tensor, hidden: Tensor) -> Tensor:
    """Their sum, in place of what `layer` made where that is a plain product, whose result nothing else needs."""
    return made.add_(hidden) if type(layer) is nn.Linear else made + hidden


def _apply(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x); a rectification overwrites what the norm before it made."""
    return x.relu_() if type(layer) is nn.ReLU else layer(x)


def softmax(rows: Tensor) -> Tensor:
    """Softmax over the last dimension. Rows that fill no vector take the CPU five times as long: they are filled."""
    short = -rows.shape[-1] % 16
    if rows.device.type != "cpu" or not short:
        return rows.softmax(-1)
    return F.pad(rows, (0, short), value=-torch.inf).softmax(-1)[..., :-short]


def _is_product(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it is a 1x1 convolution as the pixel decoder was made with, not what somebody put into its place."""
    return type(layer) is nn.Conv2d and layer.kernel_size == (1, 1)


def _project(layers: nn.Module, x: Tensor) -> Tensor:
    """A 1x1 convolution and a norm: x (B, C_i, H, W) -> (B, C, H, W), channels last, by a product over positions."""
    assert isinstance(layers, nn.Sequential)
    convolution, norm = layers
    if not _is_product(convolution):
        return layers(x)
    rows = F.linear(x.permute(0, 2, 3, 1), convolution.weight.flatten(1), convolution.bias)
    return norm(rows.permute(0, 3, 1, 2))


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """maps (B, C, H, W), channels last -> (B, C, *size), channels last, bilinear.

    On the CPU as two products of small matrices: torch's own would convert the layout to and fro there.
    """
    if maps.device.type != "cpu":
        return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    rows, columns = (_line_weights(n, m, maps) for n, m in zip(maps.shape[2:], size, strict=True))
    lines = maps.permute(0, 2, 3, 1)  # (B, H, W, C)
    taller = (rows @ lines.flatten(2)).unflatten(2, lines.shape[2:])
    return (columns @ taller).permute(0, 3, 1, 2)


def _add_enlarged(maps: Tensor, coarse: Tensor) -> Tensor:
    """maps (B, C, H, W) with `enlarge(coarse)` added in place, some rows at a time; without autograd."""
    weights, columns = (_line_weights(n, m, maps) for n, m in zip(coarse.shape[2:], maps.shape[2:], strict=True))
    lines, target = coarse.permute(0, 2, 3, 1), maps.permute(0, 2, 3, 1)  # (B, h, w, C), (B, H, W, C)
    count = max(1, BAND // maps.shape[3])
    for rows, into in zip(weights.split(count), target.split(count, 1), strict=True):
        into.add_(columns @ (rows @ lines.flatten(2)).unflatten(2, lines.shape[2:]))
    return maps


def _line_weights(count: int, wanted: int, like: Tensor) -> Tensor:
    """(wanted, count): what each of `count` pixels of a line is to each of `wanted`, bilinearly."""
    each = torch.eye(count, dtype=like.dtype, device=like.device)[None]
    return F.interpolate(each, size=wanted, mode="linear", align_corners=False)[0].mT


def reference_points(sizes: Sizes, like: Tensor) -> Tensor:
    """The middle of every position's pixel (S, 2), x before y, as shares of width and height."""
    points = []
    for height, width in sizes:
        y, x = ((torch.arange(n, dtype=like.dtype, device=like.device) + 0.5) / n for n in (height, width))
        points.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1))
    return torch.cat(points)
