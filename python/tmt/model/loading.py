"""A saved model from its folder, or a CheckpointError that says in one line what is wrong with it."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from tmt.errors import CheckpointError, ConfigError
from tmt.settings import TMTSettings

from .configuration import TMTConfig
from .processor import scaling_in
from .tmt import TMTForSemanticSegmentation
from .weights import check_weights

MODEL_TYPES = ("tmt", "mask2former")
COPIED = ("source_features.", "source_predictor.")
ADDED = ("estimator.", *COPIED)  # keys a plain Mask2Former does not have


Adapt = Callable[[TMTSettings], TMTSettings]
"""From the settings that a model was saved with to those that it is used with."""


def load_model(folder: str | Path, adapt: Adapt | None = None, **overrides: Any) -> TMTForSemanticSegmentation:
    """Load a model saved by us, or a plain Mask2Former in transformers' format, for evaluation or further training.

    Weights become float32, whatever they were saved in.

    Without `estimator.*` in the folder the estimator is random and T means nothing: train it, or load it, or pass
    transferability=False. With transfer_features="source" and no copy in the folder, the loaded model's are frozen.

    Args:
        folder: holds config.json and the weights.
        adapt: changes what TMT adds to the configuration; None: as it was saved.
        overrides: fields of TMTConfig to change before that, such as mask_rule="foreground".

    Raises:
        CheckpointError: no such folder, damaged, not finite, of another architecture or of other sizes than its
            configuration.
        ConfigError: an override that is no field, or whose value is not allowed.
    """
    folder = Path(folder)
    _check_architecture(folder)
    check_weights(folder)
    config = _configuration(folder, overrides)
    _take_scaling(folder, config)
    if adapt is not None:
        config.settings = adapt(config.settings)
        overrides |= asdict(config.settings)
    try:
        model, info = TMTForSemanticSegmentation.from_pretrained(
            folder, config=config, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        reason = _other_sizes(folder, overrides) if "mismatch" in str(error) else _line(error)
        raise CheckpointError(f"{folder}: weights damaged or not of this configuration: {reason}") from error
    _check_keys(folder, info)
    if config.settings.transfer_features == "source" and any(key.startswith(COPIED) for key in info["missing_keys"]):
        model.freeze_source_features()
    return model


def _check_architecture(folder: Path) -> None:
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; give the folder of a model saved with save_pretrained")
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        kind, quantised = saved.get("model_type"), saved.get("quantization_config")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{file}: not a JSON object: {_line(error)}") from error
    if quantised is not None:
        raise CheckpointError(f"{file}: quantization_config must be absent, got {quantised}; save floating weights")
    if kind not in MODEL_TYPES:
        raise CheckpointError(f"{file}: model_type must be one of {', '.join(MODEL_TYPES)}, got {kind!r}")


def _configuration(folder: Path, overrides: dict[str, Any]) -> TMTConfig:
    try:
        loaded: Any = TMTConfig.from_pretrained(folder, return_unused_kwargs=True, **overrides)
        config, unknown = loaded
        config.check()
    except (TypeError, ValueError, KeyError, AttributeError, StrictDataclassError) as error:
        reason = " ".join(f"{'no such kind: ' if isinstance(error, KeyError) else ''}{error}".split())
        raise ConfigError(f"{folder / 'config.json'}: {reason}; mend this field, or what overrides it") from error
    if unknown:
        raise ConfigError(f"{folder}: {', '.join(unknown)}: no such field of TMTConfig")
    return config


def _take_scaling(folder: Path, config: TMTConfig) -> None:
    """A plain Mask2Former's configuration does not say how images are scaled, its image processor does."""
    if "image_mean" in json.loads((folder / "config.json").read_text(encoding="utf-8")):
        return
    if scaling := scaling_in(folder):
        config.image_mean, config.image_std = list(scaling.mean), list(scaling.deviation)


def _other_sizes(folder: Path, overrides: dict[str, Any]) -> str:
    """Why weights do not have the sizes of the configuration: which numbers were overridden, if any."""
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    changed = [
        f"{name} was {saved[name]} and is {value}"
        for name, value in overrides.items()
        if type(value) is int and saved.get(name, value) != value
    ]
    return "they have other sizes" + (f": {', '.join(changed)}; leave it as it was" if changed else "")


def _check_keys(folder: Path, info: dict[str, Any]) -> None:
    """Every weight but the added ones must come from the folder, and all of the folder's must be used."""
    for trouble in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(str(key) for key in info[trouble] if not str(key).startswith(ADDED))
        if keys:
            raise CheckpointError(
                f"{folder}: weights of another architecture, {len(keys)} {trouble.replace('_', ' ')}, "
                f"the first {keys[0]}; check that config.json belongs to these weights"
            )


def _line(error: Exception) -> str:
    """The error's first line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
