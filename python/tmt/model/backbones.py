"""Which backbone a new model has, the weights it starts from, and how it wants its images."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, ResNetConfig, SwinConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING

from tmt.data.transforms import IMAGENET, Scaling
from tmt.errors import CheckpointError, ConfigError, reason_of
from tmt.model import efficientnet_lite
from tmt.model.efficientnet_lite import EfficientNetLiteConfig, packaged_weights
from tmt.model.hub import local_folder
from tmt.model.processor import scaling_in
from tmt.model.weights import check_weights, weight_files
from tmt.settings import OWN_BACKBONES, ModelConfig

OUTPUTS: dict[str, Any] = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
"""The maps that a backbone of own sizes hands on."""
HEAD = re.compile(r"(\w+\.)?(classifier|distillation_classifier|head|fc|pooler|decoder|layernorm|layer_norm|norm)\.")
"""Weights behind the last map, of what a backbone was trained for: a file may hold them."""
ADDED = re.compile(r"hidden_states_norms\.")
"""Weights that only backbones have, not the models that they were trained as: a file may lack them."""


@dataclass(frozen=True)
class Backbone:
    """What a new model's backbone is made from."""

    config: PreTrainedConfig
    scaling: Scaling
    weights: Path | None = None
    """Folder of its pretrained weights."""
    packaged: bool = False
    """Whether its pretrained weights are those of a package."""

    def load(self, encoder: Any) -> None:
        """Put the pretrained weights, if there are any, into a backbone of this configuration.

        Raises:
            CheckpointError: weights that are damaged, or that do not fit by name or shape.
            ConfigError: the package that holds them is not installed.
        """
        if self.packaged:
            weights = packaged_weights()
            kept = {name: value for name, value in weights.items() if not name.startswith(efficientnet_lite.HEAD)}
            _put(kept, encoder, 3, efficientnet_lite.PACKAGE)
        elif self.weights is not None:
            weights, seen = read_weights(self.weights, encoder.config)
            _put(weights, encoder, seen, self.weights)


def backbone_of(config: ModelConfig) -> Backbone:
    """The backbone that settings describe; raises ConfigError where there is none, or not the weights asked for."""
    name, wanted = config.backbone, config.backbone_weights
    if name in OWN_BACKBONES:
        made = _own(config)
        packaged = made.packaged and wanted != "random"
        if packaged:
            efficientnet_lite.require_package()
        return Backbone(made.config, made.scaling.of_channels(config.channels), packaged=packaged)
    folder = local_folder(name, "model.backbone", weights=wanted != "random")
    found = _configuration(folder)
    found.num_channels = config.channels
    weights = None if wanted == "random" else _weights(folder, required=wanted == "pretrained" or folder != Path(name))
    scaling = scaling_in(folder) or IMAGENET
    return Backbone(found, scaling.of_channels(config.channels), weights)


def _own(config: ModelConfig) -> Backbone:
    channels = config.channels
    if config.backbone == "efficientnet_lite0":
        scaling = Scaling(efficientnet_lite.MEAN, efficientnet_lite.DEVIATION)
        return Backbone(EfficientNetLiteConfig(num_channels=channels), scaling, packaged=True)
    if config.backbone == "resnet50":
        return Backbone(ResNetConfig(num_channels=channels, **OUTPUTS), IMAGENET)
    if config.backbone == "resnet":
        sizes: dict[str, Any] = {"hidden_sizes": list(config.widths), "depths": list(config.depths)}
        sizes |= {"embedding_size": config.widths[0], "layer_type": "basic"}
        return Backbone(ResNetConfig(num_channels=channels, **sizes, **OUTPUTS), IMAGENET)
    sizes = {"depths": list(config.depths), "num_heads": list(config.heads), "window_size": config.window}
    sizes |= {"embed_dim": config.embed_dim, "drop_path_rate": config.drop_path}
    return Backbone(SwinConfig(num_channels=channels, **sizes, **OUTPUTS), IMAGENET)


def _configuration(folder: Path) -> Any:
    file = folder / "config.json"
    if not file.is_file():
        raise ConfigError(f"model.backbone: must hold config.json, got {folder}; give the folder of a saved backbone")
    try:
        found = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file}: not a model's configuration: {reason_of(error)}") from error
    if type(found) not in MODEL_FOR_BACKBONE_MAPPING:
        raise ConfigError(
            f"{file}: model_type must be one that transformers has as a backbone, such as convnext or dinov2, got "
            f"{found.model_type}; choose another model.backbone"
        )
    return found


def _weights(folder: Path, required: bool) -> Path | None:
    """The folder, where it holds weights."""
    try:
        weight_files(folder)
    except CheckpointError as error:
        if required:
            raise ConfigError(
                f"model.backbone_weights: {folder} holds a configuration without weights; add them, or set random"
            ) from error
        return None
    return folder


def read_weights(folder: Path, config: Any) -> tuple[dict[str, Tensor], int]:
    """The pretrained weights of a backbone of a configuration by name, and the channels of the images they have seen.

    Those of a classifier or another head are left out. Raises CheckpointError for files that are damaged, or hold
    weights of another architecture.
    """
    check_weights(folder)
    channels = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("num_channels", 3)
    alike = type(config).from_dict({**config.to_dict(), "num_channels": channels})
    kind: Any = MODEL_FOR_BACKBONE_MAPPING[type(config)]
    try:
        backbone, info = kind.from_pretrained(folder, config=alike, dtype=torch.float32, output_loading_info=True)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: weights damaged or not of its config.json: {reason_of(error)}") from error
    _check(folder, "missing", [key for key in info["missing_keys"] if not ADDED.match(key)])
    _check(folder, "unexpected", [key for key in info["unexpected_keys"] if not HEAD.match(key)])
    return backbone.state_dict(), channels


def _check(where: object, trouble: str, keys: list[str]) -> None:
    if keys:
        raise CheckpointError(
            f"{where}: weights of another architecture, {len(keys)} {trouble}, the first "
            f"{', '.join(sorted(keys)[:3])}; check that config.json belongs to these weights"
        )


def _put(weights: dict[str, Tensor], encoder: Any, seen: int, where: object) -> None:
    """Copy weights into a backbone, all of which they must be; seen: channels of the images that they were made for."""
    own, wanted = encoder.state_dict(), getattr(encoder.config, "num_channels", 3)
    _check(where, "missing", [name for name in own if name not in weights])
    _check(where, "unexpected", [name for name in weights if name not in own])
    fitted = {name: _for_channels(weights[name], value, seen, wanted) for name, value in own.items()}
    _check(where, "of another shape", [name for name, value in own.items() if fitted[name].shape != value.shape])
    encoder.load_state_dict(fitted)


def _for_channels(weight: Tensor, like: Tensor, seen: int, wanted: int) -> Tensor:
    """The first convolution's weights (O, seen, h, w) as (O, wanted, h, w); any other weight as it is.

    One channel, grey, gets the sum of all, so that grey pictures give what they gave; more repeat them, scaled down.
    """
    if like.ndim != 4 or seen == wanted or (weight.shape[1], like.shape[1]) != (seen, wanted):
        return weight
    if wanted == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(wanted) % seen] * (seen / wanted)
