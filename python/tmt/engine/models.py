"""Making, loading and saving segmentation models."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedConfig, ResNetConfig, SwinConfig
from transformers.utils import logging as transformers_logging

from tmt.config import ModelConfig
from tmt.data import CLASSES
from tmt.engine.seeding import seed_all
from tmt.errors import CheckpointError, ConfigError
from tmt.model import TMTConfig, TMTForSemanticSegmentation, initialise_from_scratch, load_model

# Its progress bars and load reports would tear ours apart; what is wrong with a model is raised, not logged.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()

STAGES = ["stage1", "stage2", "stage3", "stage4"]


def new_model(config: ModelConfig, options: dict[str, object], seed: int) -> TMTForSemanticSegmentation:
    """A model of the configured sizes with random weights, a function of `seed`."""
    seed_all(seed)
    model = TMTForSemanticSegmentation(model_config(config, options))
    initialise_from_scratch(model)
    return model


def model_config(config: ModelConfig, options: dict[str, object]) -> TMTConfig:
    """The configuration of a new model; raises ConfigError for sizes that do not fit each other."""
    try:
        return TMTConfig(
            backbone_config=_backbone(config),
            feature_size=config.hidden,
            mask_feature_size=config.hidden,
            hidden_dim=config.hidden,
            encoder_feedforward_dim=config.encoder_ffn,
            dim_feedforward=config.ffn,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers + 1,  # transformers counts the prediction from the queries alone
            num_attention_heads=config.attention_heads,
            num_queries=config.queries,
            train_num_points=config.points,
            dropout=0.0,
            **_labels(),
            **options,
        )
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error


def _backbone(config: ModelConfig) -> PreTrainedConfig:
    if config.backbone == "resnet50":
        return ResNetConfig(out_features=STAGES)
    if config.backbone == "resnet":
        return ResNetConfig(
            embedding_size=config.widths[0],
            hidden_sizes=list(config.widths),
            depths=list(config.depths),
            layer_type="basic",
            out_features=STAGES,
        )
    return SwinConfig(
        embed_dim=config.embed_dim,
        depths=list(config.depths),
        num_heads=list(config.heads),
        window_size=config.window,
        drop_path_rate=config.drop_path,
        out_features=STAGES,
    )


def _labels() -> dict[str, object]:
    return {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}


def open_model(folder: str | Path, options: dict[str, object]) -> TMTForSemanticSegmentation:
    """A saved model, ours or a plain Mask2Former, with some fields of its configuration replaced.

    Raises CheckpointError for a folder without a model, damaged weights, another architecture or other classes.
    """
    model = load_model(folder, **options)
    if model.config.num_labels != len(CLASSES):
        raise CheckpointError(
            f"{folder}: must predict the {len(CLASSES)} Cityscapes classes, got {model.config.num_labels} classes; "
            f"give a model trained on them"
        )
    return model


def load_estimator(model: TMTForSemanticSegmentation, path: str | Path) -> None:
    """Put a trained discriminator's weights into a model. Raises CheckpointError when they do not fit."""
    try:
        weights = load_file(path)
        model.estimator.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path}: cannot be used as transferability estimator: {reason}; train it with --stages estimator"
        ) from error


def freeze(module: nn.Module) -> None:
    """Take a module out of training."""
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad = False


def autocast(device: torch.device, enabled: bool) -> torch.autocast:
    """bfloat16 autocast on CUDA where enabled; nothing on the CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled and device.type == "cuda")
