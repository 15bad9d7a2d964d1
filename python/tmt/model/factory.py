"""Making, loading and saving segmentation models."""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers.utils import logging as transformers_logging

from tmt.data.labels import LabelSet, default_colour
from tmt.errors import CheckpointError, ConfigError
from tmt.model import TMTConfig, TMTForSemanticSegmentation, initialise_from_scratch, load_model
from tmt.model.backbones import backbone_of
from tmt.model.layout import layout_of
from tmt.model.loading import Adapt
from tmt.model.weights import check_tensors
from tmt.runtime.seeding import seed_all
from tmt.settings import ModelConfig, RegionSettings, TMTSettings

# Its progress bars and load reports would tear ours apart; what is wrong with a model is raised, not logged.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()

PER_CLASS = ("class_predictor.", "criterion.")
"""What a model has for its own classes only."""
REGIONS = "regions"
"""Entry of an estimator file's metadata: its `RegionSettings` as JSON."""


def new_model(config: ModelConfig, settings: TMTSettings, seed: int, label_set: LabelSet) -> TMTForSemanticSegmentation:
    """A model of the configured sizes and these classes with random weights, a function of `seed`."""
    seed_all(seed)
    model = TMTForSemanticSegmentation(model_config(config, settings, label_set))
    initialise_from_scratch(model)
    backbone_of(config).load(model.model.pixel_level_module.encoder)
    return model


def model_config(config: ModelConfig, settings: TMTSettings, label_set: LabelSet) -> TMTConfig:
    """The configuration of a new model; raises ConfigError for sizes that do not fit each other, or a backbone that is
    not found or cannot be used."""
    backbone = backbone_of(config)
    layout_of(backbone.config)
    try:
        return TMTConfig(
            backbone_config=backbone.config,
            image_mean=backbone.scaling.mean,
            image_std=backbone.scaling.deviation,
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
            **_labels(label_set),
            **asdict(settings),
        )
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error


def _labels(label_set: LabelSet) -> dict[str, Any]:
    """The fields of a configuration that remember the classes; `palette`, their colours, is an addition of ours."""
    return {
        "id2label": dict(enumerate(label_set.names)),
        "label2id": {name: i for i, name in enumerate(label_set.names)},
        "palette": label_set.palette.tolist(),
    }


def label_set_of(model: TMTForSemanticSegmentation) -> LabelSet:
    """The classes a model was saved with: their names, and their colours or, without those, default ones."""
    known: dict[int, str] = model.config.id2label  # type: ignore[assignment]  # keys are numbers
    names = tuple(str(known[i]) for i in range(len(known)))
    saved = getattr(model.config, "palette", None)
    if saved is not None and np.shape(saved) == (len(names), 3):
        return LabelSet(names, np.array(saved, dtype=np.uint8))
    return LabelSet(names, np.array([default_colour(i) for i in range(len(names))], dtype=np.uint8))


def predicts(model: TMTForSemanticSegmentation, label_set: LabelSet) -> bool:
    """Whether a model predicts these classes; one whose classes have no names of their own need only have as many."""
    known = label_set_of(model).names
    nameless = all(name == f"LABEL_{i}" for i, name in enumerate(known))
    same = [_spelt(name) for name in known] == [_spelt(name) for name in label_set.names]
    return same or (nameless and len(known) == len(label_set))


def remember_classes(config: TMTConfig, label_set: LabelSet) -> None:
    """Write names and colours of the classes into a model's configuration."""
    for name, value in _labels(label_set).items():
        setattr(config, name, value)


def _spelt(name: str) -> str:
    """A name without what differs between releases of the same classes."""
    return name.casefold().replace("_", " ").replace("-", " ").strip()


def listed(names: Sequence[str]) -> str:
    """Class names for a message: their number and the first of them."""
    return f"{len(names)} ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''})"


def open_model(
    folder: str | Path, adapt: Adapt | None = None, label_set: LabelSet | None = None
) -> TMTForSemanticSegmentation:
    """A saved model, ours or a plain Mask2Former, its settings as they were saved or adapted.

    Raises CheckpointError for a folder without a model, damaged weights or another architecture, and ConfigError for
    other classes than those of `label_set`, where it is given.
    """
    model = load_model(folder, adapt)
    if label_set is not None:
        if not predicts(model, label_set):
            raise ConfigError(
                f"{folder}: model must predict the classes of the data, {listed(label_set.names)}, got "
                f"{listed(label_set_of(model).names)}; give a model trained on them"
            )
        remember_classes(model.config, label_set)
    return model


def open_base(folder: str | Path, adapt: Adapt, label_set: LabelSet, seed: int) -> TMTForSemanticSegmentation:
    """A saved model to start from. For other classes than its own it gets a class predictor that `seed` determines.

    Raises CheckpointError as `open_model` does.
    """
    base = load_model(folder, adapt)
    if predicts(base, label_set):
        remember_classes(base.config, label_set)
        return base
    config = copy.deepcopy(base.config)
    remember_classes(config, label_set)
    seed_all(seed)
    model = TMTForSemanticSegmentation(config)
    kept = {name: value for name, value in base.state_dict().items() if not name.startswith(PER_CLASS)}
    model.load_state_dict(kept, strict=False)
    return model


def save_estimator(discriminator: nn.Module, regions: RegionSettings, path: Path) -> None:
    """Write a discriminator's weights, with the settings of the regions that it was trained on."""
    weights = {name: tensor.contiguous() for name, tensor in discriminator.state_dict().items()}
    save_file(weights, path, metadata={REGIONS: json.dumps(asdict(regions))})


def load_estimator(model: TMTForSemanticSegmentation, path: str | Path) -> list[str]:
    """Put a trained discriminator's weights into a model.

    Returns how the regions that it was trained on differ from the model's, each as "field is x here and was y".
    Raises CheckpointError when the weights do not fit.
    """
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            weights = {name: file.get_tensor(name) for name in names}
            trained = json.loads((file.metadata() or {}).get(REGIONS, "{}"))
        check_tensors(Path(path), weights.items())
        model.estimator.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path}: cannot be used as transferability estimator: {reason}; train it with --stages estimator"
        ) from error
    pairs = [(name, getattr(model.config, name, None), value) for name, value in trained.items()]
    return [f"{name} is {here} here and was {there}" for name, here, there in pairs if here != there]


def transfer_switch(on: bool | None) -> Adapt | None:
    """Switches T on or off in inference; None: as the model was saved."""
    return None if on is None else lambda settings: replace(settings, transferability=on, transfer_at_inference=on)


def freeze(module: nn.Module) -> None:
    """Take a module out of training."""
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad = False
