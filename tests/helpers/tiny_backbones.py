"""Backbones of transformers small enough for tests, by model_type."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, PreTrainedConfig

WINDOWS: dict[str, Any] = {
    "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4, "image_size": 64,
    "drop_path_rate": 0.0,
}  # fmt: skip
STAGES: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
PLAIN: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "drop_path_rate": 0.0}
TINY: dict[str, dict[str, Any]] = {
    "swin": WINDOWS,
    "swinv2": WINDOWS,
    "convnext": STAGES,
    "convnextv2": STAGES,
    "resnet": {**STAGES, "embedding_size": 8, "layer_type": "basic"},
    "pvt_v2": {**STAGES, "num_attention_heads": [1, 1, 2, 2], "drop_path_rate": 0.0},
    "focalnet": {"embed_dim": 16, "hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 1, 1], "image_size": 64,
                 "drop_path_rate": 0.0},
    "hiera": {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "image_size": [64, 64]},
    "dinov2": {**PLAIN, "image_size": 56, "patch_size": 14},
    "dinov3_vit": {**PLAIN, "image_size": 64, "intermediate_size": 48},
    "dinov3_convnext": STAGES,
    "tmt_efficientnet_lite": {},
}  # fmt: skip


def tiny(kind: str, **fields: Any) -> PreTrainedConfig:
    """The configuration of a small backbone."""
    return AutoConfig.for_model(kind, **{**TINY[kind], **fields})


def save_pretrained_model(kind: str, folder: Path, **fields: Any) -> None:
    """Write a folder as a hub has it: what a backbone was trained as, a classifier where transformers has one."""
    torch.manual_seed(7)  # not the seed of any test
    config = tiny(kind, **fields)
    auto = (
        AutoModelForImageClassification if type(config) in AutoModelForImageClassification._model_mapping else AutoModel
    )
    auto.from_config(config).save_pretrained(folder)
