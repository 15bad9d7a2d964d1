"""The transformer decoder: from three feature maps, mask features and T to each layer's query and mask embeddings.

A query's mask at some resolution is its mask embedding times the mask features at that resolution (resizing is
linear, so mask features are resized once per level instead of every mask): no full-size mask is made here.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerMaskedAttentionDecoderLayer,
    Mask2FormerMaskPredictor,
    Mask2FormerTransformerModule,
)

from tmt.runtime.precision import autocasts, full, without_autocast

from .configuration import TMTConfig
from .inputs import is_traced
from .pixel_decoder import LEVELS
from .tma import (
    Attention,
    AttentionMaskBuilder,
    LevelTransferability,
    Mask,
    TransferableMaskedAttention,
    level_transferability,
    passing,
)


class Level(NamedTuple):
    """What the layers of one resolution attend to, S = H_l * W_l."""

    keys: Tensor  # (B, S, C) features with position
    values: Tensor  # (B, S, C)
    mask_features: Tensor  # (B, E, S), without gradient
    transfer: LevelTransferability | None
    passing: "Level | None" = None  # its part that passes T, where layers need not see the rest


class Record(NamedTuple):
    """What one layer reports beside its result."""

    allowed_fraction: Tensor  # (B,)
    fallback_rate: Tensor  # (B,)
    self_attention: Tensor | None  # (B, heads, N, N) when recorded
    cross_attention: Tensor | None  # (B, heads, N, S) when recorded


class Decoded(NamedTuple):
    """Result of the decoder with L layers; entry 0 of the first two is the prediction before the first layer."""

    queries: Tensor  # (L + 1, B, N, C), normalised
    mask_embeddings: Tensor  # (L + 1, B, N, E)
    hidden_states: tuple[Tensor, ...]  # L + 1 of (B, N, C), not normalised
    records: tuple[Record, ...]  # L


class DecoderLayer(Mask2FormerMaskedAttentionDecoderLayer):
    """Cross-attention (TMA), self-attention, feed-forward: each with a residual connection and a norm.

    `dropout` acts on the residual branches; attention weights are never dropped.
    """

    def __init__(self, config: TMTConfig):
        super().__init__(config)
        self.cross_attn = TransferableMaskedAttention(config.hidden_dim, config.num_attention_heads)

    def forward(
        self, hidden: Tensor, positions: Tensor, level: Level, mask: Mask, record: bool
    ) -> tuple[Tensor, Record]:
        """hidden and positions (B, N, C) -> hidden (B, N, C) and what the layer reports."""
        hidden, cross = self._residual(
            hidden,
            self.cross_attn_layer_norm,
            lambda x: self.cross_attn(x + positions, level.keys, level.values, mask, record),
        )
        hidden, own = self._residual(
            hidden, self.self_attn_layer_norm, lambda x: self._attend_queries(x, positions, record)
        )
        hidden, _ = self._residual(hidden, self.final_layer_norm, self._feed_forward)
        return hidden, Record(mask.allowed_fraction, mask.fallback_rate, own, cross)

    def _residual(
        self, x: Tensor, norm: nn.LayerNorm, branch: Callable[[Tensor], Attention]
    ) -> tuple[Tensor, Tensor | None]:
        """x (B, N, C) plus a branch of it, normalised before the branch or after the sum; and the branch's weights."""
        output, weights = branch(norm(x) if self.pre_norm else x)
        x = x + self._drop(output)
        return (x if self.pre_norm else norm(x)), weights

    def _attend_queries(self, x: Tensor, positions: Tensor, record: bool) -> Attention:
        """Self-attention of x (B, N, C); transformers' module wants (N, B, C)."""
        x, positions = x.transpose(0, 1), positions.transpose(0, 1)
        output, weights = self.self_attn(x, position_embeddings=positions, output_attentions=record)
        return Attention(output.transpose(0, 1), weights)

    def _feed_forward(self, x: Tensor) -> Attention:
        return Attention(self.fc2(self._drop(self.activation_fn(self.fc1(x)))), None)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Decoder(nn.Module):
    """The stack of layers; every layer's mask decides where the next one attends."""

    def __init__(self, config: TMTConfig):
        super().__init__()
        self.mask_builder = AttentionMaskBuilder(config.settings)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers - 1))
        self.layernorm = nn.LayerNorm(config.hidden_dim)
        self.mask_predictor = Mask2FormerMaskPredictor(
            config.hidden_dim,
            config.num_attention_heads,
            config.mask_feature_size,  # type: ignore[arg-type]  # a number
        )

    def forward(self, hidden: Tensor, positions: Tensor, levels: list[Level], record: bool) -> Decoded:
        """hidden and positions (B, N, C), one Level per resolution -> Decoded."""
        queries, mask_embeddings = self._predict(hidden)
        all_hidden, all_queries, all_embeddings, records = [hidden], [queries], [mask_embeddings], []
        for i, layer in enumerate(self.layers):
            level, mask = self._mask(mask_embeddings.detach(), levels[i % LEVELS])
            hidden, reported = layer(hidden, positions, level, mask, record)
            queries, mask_embeddings = self._predict(hidden)
            all_hidden.append(hidden)
            all_queries.append(queries)
            all_embeddings.append(mask_embeddings)
            records.append(reported)
        return Decoded(torch.stack(all_queries), torch.stack(all_embeddings), tuple(all_hidden), tuple(records))

    def _mask(self, mask_embeddings: Tensor, level: Level) -> tuple[Level, Mask]:
        """mask_embeddings (B, N, E) -> where the queries attend, and the level whose keys that is about.

        Keys that fail T need neither logits nor projections, unless a query is left with none and attends everywhere.
        """
        positions = level.mask_features.shape[2]
        if level.passing is not None:
            mask = self.mask_builder(mask_embeddings, level.passing.mask_features, level.passing.transfer, positions)
            if not mask.fallback_rate.any():
                return level.passing, mask
        return level, self.mask_builder(mask_embeddings, level.mask_features, level.transfer, positions)

    def _predict(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """hidden (B, N, C) -> normalised queries (B, N, C) and their mask embeddings (B, N, E)."""
        queries = self.layernorm(hidden)
        return queries, self.mask_predictor.mask_embedder(queries)


class TransformerModule(Mask2FormerTransformerModule):
    """Learned queries and the decoder over three resolutions."""

    def __init__(self, in_features: int, config: TMTConfig):
        super().__init__(in_features, config)
        # A plain list in older versions of transformers 5: its weights would be neither trained nor saved.
        self.input_projections = nn.ModuleList(self.input_projections)
        self.decoder = Decoder(config)
        self.settings = config.settings

    def forward(
        self, maps: tuple[Tensor, ...], mask_features: Tensor, transferability: Tensor | None, record: bool = False
    ) -> Decoded:
        """Decode the queries.

        Args:
            maps: (B, C, H_l, W_l) at strides 32, 16, 8.
            mask_features: (B, E, H4, W4) at stride 4.
            transferability: T (B, h, w) in [0, 1], any size, or None: no transferability condition.
            record: whether attention weights are returned.
        """
        if transferability is not None and self.settings.transfer_exclude == "low":
            transferability = 1.0 - transferability
        levels = [self._level(i, features, mask_features, transferability) for i, features in enumerate(maps)]
        if (
            transferability is not None
            and self.decoder.mask_builder.drops_keys
            and not record
            and _counts_freely(maps[0])
        ):
            levels = [level._replace(passing=without_excluded(level)) for level in levels]
        levels = [for_projections(level) for level in levels]
        batch = mask_features.shape[0]
        hidden = self.queries_features.weight.expand(batch, -1, -1)
        positions = self.queries_embedder.weight.expand(batch, -1, -1)
        return self.decoder(hidden, positions, levels, record)

    def _level(self, i: int, features: Tensor, mask_features: Tensor, transferability: Tensor | None) -> Level:
        """features (B, C, H_l, W_l) of level i -> what its layers attend to."""
        size = (features.shape[-2], features.shape[-1])
        one = (1, *features.shape[1:])  # positions are the same for every image
        positions = self.position_embedder(one, features.device, features.dtype, None).flatten(2).transpose(1, 2)
        values = self.input_projections[i](features).flatten(2).transpose(1, 2) + self.level_embed.weight[i]
        transfer = None
        if transferability is not None:
            transfer = level_transferability(transferability, size, self.settings.transfer_fraction)
        return Level(values + positions, values, resize(mask_features.detach(), size).flatten(2), transfer)


def without_excluded(level: Level) -> Level:
    """The part of a level that passes T, (B, M) positions of the S; an image with fewer is filled up with others."""
    assert level.transfer is not None
    kept = passing(level.transfer)

    def take(x: Tensor) -> Tensor:
        """(B, any, S) -> (B, any, M)."""
        return x.gather(2, kept[:, None].expand(-1, x.shape[1], -1))

    keys, values = (take(x.transpose(1, 2)).transpose(1, 2) for x in (level.keys, level.values))
    transfer = level.transfer._replace(values=level.transfer.values.gather(1, kept))
    return Level(keys, values, take(level.mask_features), transfer)


def for_projections(level: Level) -> Level:
    """The level with keys and values as its layers' projections read them, so that none makes a copy of its own."""
    inner = None if level.passing is None else for_projections(level.passing)
    return level._replace(keys=_for_projection(level.keys), values=_for_projection(level.values), passing=inner)


def _for_projection(x: Tensor) -> Tensor:
    """x (B, S, C), any strides -> contiguous; in the dtype of autocast where a projection would cast it."""
    if autocasts(x) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(x.device.type), memory_format=torch.contiguous_format)
    return x.contiguous()


def _counts_freely(tensor: Tensor) -> bool:
    """Whether a count of positions may shape tensors: a GPU would have to wait for it, a compiler cannot know it, nor
    can tensors without values, and a trace would keep it for every image."""
    known = tensor.device.type == "cpu" and not isinstance(tensor, FakeTensor)
    return known and not torch.compiler.is_compiling() and not is_traced()


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """maps (B, E, H, W) -> (B, E, *size), bilinear.

    Every channel is an image of its own: for images of many channels torch converts the layout to and fro on the CPU.
    """
    alone = maps.flatten(0, 1)[:, None]
    return F.interpolate(alone, size=size, mode="bilinear", align_corners=False).view(*maps.shape[:2], *size)


def mask_logits(mask_embeddings: Tensor, mask_features: Tensor) -> Tensor:
    """mask_embeddings (..., B, N, E) and mask_features (B, E, S) -> (..., B, N, S), float32 under autocast too."""
    with without_autocast(mask_features):
        return full(mask_embeddings) @ full(mask_features)
