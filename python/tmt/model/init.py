"""Random weights of a new model, as Mask2Former's authors drew them."""

import math
from typing import Any

import torch
from torch import nn
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerAttention,
    Mask2FormerPixelDecoderEncoderLayer,
)

from .decoder import DecoderLayer
from .tmt import TMTForSemanticSegmentation

Layer = nn.Linear | nn.Conv2d


@torch.no_grad()
def initialise_from_scratch(model: TMTForSemanticSegmentation) -> None:
    """Redraw every weight but the backbone's, in place, from torch's generator.

    transformers' own values differ from the original's, and from one of its versions to another: embeddings, the
    mask and class heads, projections and the biases of feed-forward layers. Only for training from random weights.
    """
    _initialise_pixel_decoder(model.model.pixel_level_module.decoder)
    if model.model.pixel_level_module.pyramid is not None:
        model.model.pixel_level_module.pyramid.reset()
    _initialise_transformer(model.model.transformer_module)
    _torch_default(model.class_predictor)
    for module in model.estimator.modules():
        if isinstance(module, nn.Linear):
            _torch_default(module)


def _initialise_pixel_decoder(decoder: Any) -> None:
    """A Mask2FormerPixelDecoder."""
    nn.init.normal_(decoder.level_embed)
    for projection, _ in decoder.input_projections:
        _xavier(projection)
    for layer in decoder.encoder.layers:
        _initialise_encoder_layer(layer)
    _caffe2(decoder.mask_projection)
    for sequence in decoder.children():
        if isinstance(sequence, nn.Sequential):  # the lateral and the output convolutions
            _caffe2(sequence[0])  # type: ignore[arg-type]  # a Conv2d


def _initialise_encoder_layer(layer: Mask2FormerPixelDecoderEncoderLayer) -> None:
    attention = layer.self_attn
    _xavier(attention.value_proj)
    _xavier(attention.output_proj)
    for predictor in (attention.attention_weights, attention.sampling_offsets):
        nn.init.zeros_(predictor.weight)
    nn.init.zeros_(attention.attention_weights.bias)
    _initialise_offsets(attention.sampling_offsets.bias, attention.n_heads, attention.n_levels, attention.n_points)
    _feed_forward(layer)


def _initialise_offsets(bias: nn.Parameter, heads: int, levels: int, points: int) -> None:
    """bias (heads * levels * points * 2): head h looks in direction 2 pi h / heads, point p p + 1 steps away."""
    angle = torch.arange(heads, dtype=torch.float32) * (2.0 * math.pi / heads)
    direction = torch.stack([angle.cos(), angle.sin()], -1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    steps = torch.arange(1, points + 1, dtype=torch.float32)
    offsets = direction[:, None, None, :] * steps[:, None]  # (heads, 1, points, 2)
    bias.copy_(offsets.expand(heads, levels, points, 2).flatten())


def _initialise_transformer(module: Any) -> None:
    """A TransformerModule."""
    for embedding in (module.queries_features, module.queries_embedder, module.level_embed):
        nn.init.normal_(embedding.weight)
    for projection in module.input_projections:
        if isinstance(projection, nn.Conv2d):
            _caffe2(projection)
    for layer in module.decoder.layers:
        _initialise_decoder_layer(layer)
    for layer in module.decoder.mask_predictor.mask_embedder.modules():
        if isinstance(layer, nn.Linear):
            _torch_default(layer)


def _initialise_decoder_layer(layer: DecoderLayer) -> None:
    nn.init.xavier_uniform_(layer.cross_attn.in_proj_weight)
    nn.init.zeros_(layer.cross_attn.in_proj_bias)
    _xavier(layer.cross_attn.out_proj)
    _initialise_self_attention(layer.self_attn)
    _feed_forward(layer)


def _initialise_self_attention(attention: Mask2FormerAttention) -> None:
    """The original draws query, key and value as one (3C, C) matrix: Xavier's bound is sqrt(2) smaller there."""
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        nn.init.xavier_uniform_(projection.weight, gain=math.sqrt(0.5))
        nn.init.zeros_(projection.bias)
    _xavier(attention.out_proj)


def _feed_forward(layer: DecoderLayer | Mask2FormerPixelDecoderEncoderLayer) -> None:
    for linear in (layer.fc1, layer.fc2):
        _torch_default(linear)  # for its bias
        nn.init.xavier_uniform_(linear.weight)


def _xavier(layer: Layer) -> None:
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _caffe2(layer: nn.Conv2d) -> None:
    nn.init.kaiming_uniform_(layer.weight, a=1)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _torch_default(layer: nn.Linear) -> None:
    """nn.Linear's own initialisation; `reset_parameters` of transformers' subclasses may differ."""
    nn.Linear.reset_parameters(layer)
