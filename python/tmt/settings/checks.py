"""Settings that contradict each other."""

from pathlib import Path
from typing import get_args

from tmt.errors import ConfigError
from tmt.settings.data import DataConfig, DatasetName, DrawnName, MapillaryMapping, MapillaryVersion
from tmt.settings.files import hint
from tmt.settings.model import OWN_BACKBONES, ModelConfig
from tmt.settings.run import Config, Stage
from tmt.settings.training import InferenceConfig


def check(config: Config) -> None:
    """Raise ConfigError for settings that contradict each other."""
    if not config.stages:
        raise ConfigError(f"stages: must name at least one stage, got none; choose from {', '.join(get_args(Stage))}")
    if len(set(config.stages)) < len(config.stages):
        raise ConfigError(f"stages: must name each stage once, got {list(config.stages)}")
    low, high = config.augment.scale
    if low > high:
        raise ConfigError(f"augment.scale: must be (smallest, largest), got ({low}, {high})")
    _check_data(config.data)
    if not config.data.target_labelled:
        _check_unlabelled(config)
    if config.data.source_root is None:
        _check_synthetic(config)
    check_inference(config.evaluation, "evaluation.")
    _check_model(config.model)


def _check_data(data: DataConfig) -> None:
    if (data.source_root is None) != (data.target_root is None):
        raise ConfigError(
            f"data: source_root and target_root must be given both or neither, got {data.source_root} and "
            f"{data.target_root}; with neither, synthetic scenes are used for both"
        )
    check_mapillary((data.source, data.target), data.mapillary_mapping, data.mapillary_version, "data.")


def _check_unlabelled(config: Config) -> None:
    if config.data.target_root is None:
        raise ConfigError("data.target_labelled: synthetic scenes have labels, got false; give --data.target_root")
    if config.data.target_classes is not None:
        raise ConfigError(
            f"data.target_classes: is for labels of the target, got {config.data.target_classes} with "
            "data.target_labelled=false; leave it out"
        )
    if needing := [stage for stage in config.stages if stage not in ("source", "estimator")]:
        raise ConfigError(
            f"stages: {needing[0]} needs labels of the target, got data.target_labelled=false; label some regions "
            "(python -m tmt.label), or train source and estimator only"
        )
    if "estimator" in config.stages and config.estimator.kind == "error":
        raise ConfigError(
            "estimator.kind: error needs labels of the target, got data.target_labelled=false; use domain, conditional "
            "or entropy"
        )
    if "estimator" in config.stages and config.estimator.counted == "labelled":
        raise ConfigError(
            "estimator.counted: must be image where the target has no labels, got labelled with "
            "data.target_labelled=false; add --estimator.counted image"
        )


def _check_synthetic(config: Config) -> None:
    data = config.data
    if data.source == data.target:
        raise ConfigError(f"data: synthetic source and target must be different domains, got {data.source} for both")
    if real := [name for name in (data.source, data.target) if name not in get_args(DrawnName)]:
        what = "a dataset of your own" if real[0] == "folders" else "a real dataset, of which no scenes are drawn"
        raise ConfigError(f"data: {real[0]} is {what}; give --data.source_root and --data.target_root")
    for role, fit, available in (
        ("source", config.source, data.synthetic_source),
        ("target", config.target, data.synthetic_target),
    ):
        check_subset(role, fit.images, available, f"data.synthetic_{role}")


def check_subset(role: str, images: int | None, available: int, where: str) -> None:
    """Raise ConfigError where a domain's stage asks for more training images than there are."""
    if images is not None and images > available:
        raise ConfigError(f"{role}.images: must be at most the {available} training images of {where}, got {images}")


def check_mapillary(
    datasets: tuple[DatasetName, ...], mapping: MapillaryMapping, version: MapillaryVersion | None, prefix: str = ""
) -> None:
    """Raise ConfigError for settings of Mapillary's labels where no dataset is Mapillary."""
    given = [("mapping", mapping)] if mapping != "strict" else []
    given += [("version", version)] if version is not None else []
    if given and "mapillary" not in datasets:
        name, value = given[0]
        raise ConfigError(
            f"{prefix}mapillary_{name}: is for the dataset mapillary, got {value} for {' and '.join(datasets)}; "
            "leave it out"
        )


def check_inference(inference: InferenceConfig, prefix: str = "") -> None:
    """Raise ConfigError for windows and scales that cannot be used together; `prefix` comes before the names."""
    if not inference.scales:
        raise ConfigError(f"{prefix}scales: must hold at least one factor, got none; 1.0 is the image's own size")
    if inference.stride is None:
        return
    if inference.window is None:
        raise ConfigError(f"{prefix}stride: is for sliding windows, got {inference.stride} without {prefix}window")
    if any(step > side for step, side in zip(inference.stride, inference.window, strict=True)):
        raise ConfigError(
            f"{prefix}stride: must be at most the window {inference.window}, got {inference.stride}; "
            "else pixels between windows are never seen"
        )


def _check_model(model: ModelConfig) -> None:
    if model.hidden % model.attention_heads:
        raise ConfigError(
            f"model.hidden: must be a multiple of model.attention_heads = {model.attention_heads}, got {model.hidden}"
        )
    if model.base is None:
        _check_backbone(model)
    for i, heads in enumerate(model.heads if model.backbone == "swin" else ()):
        if (model.embed_dim << i) % heads:
            raise ConfigError(f"model.heads: must divide the stage's {model.embed_dim << i} channels, got {heads}")


def _check_backbone(model: ModelConfig) -> None:
    name = model.backbone
    if model.channels not in (1, 3):
        raise ConfigError(f"model.channels: must be 3, as pictures have, or 1 for their grey, got {model.channels}")
    if name not in OWN_BACKBONES and "/" not in name and not Path(name).is_dir():
        raise ConfigError(
            f"model.backbone: must be one of {', '.join(OWN_BACKBONES)}, a hub id such as facebook/convnext-tiny-224 "
            f"or a folder, got {name}{hint(name, OWN_BACKBONES)}"
        )
    if name in ("swin", "resnet50", "resnet") and model.backbone_weights == "pretrained":
        raise ConfigError(
            f"model.backbone_weights: there are none for {name}, whose sizes are settings, got pretrained; give a hub "
            "id or a folder as model.backbone, or efficientnet_lite0"
        )
