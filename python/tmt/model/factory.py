"""Making, loading and saving segmentation models."""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers.utils import logging as transformers_logging

from tmt.data.labels import LabelSet, with_default_colours
from tmt.errors import CheckpointError, ConfigError, reason_of
from tmt.model import TMTConfig, TMTForSemanticSegmentation, initialise_from_scratch, load_model
from tmt.model.backbones import Backbone, backbone_of
from tmt.model.class_weights import ClassWeights, spelt
from tmt.model.hub import is_hub_id, local_folder
from tmt.model.layout import layout_of
from tmt.model.loading import Adapt
from tmt.model.weights import check_tensors
from tmt.runtime.seeding import seed_all
from tmt.settings import EstimatorKind, ModelConfig, RegionSettings, TMTSettings

# Its progress bars and load reports would tear ours apart; what is wrong with a model is raised, not logged.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()

PER_CLASS = ("class_predictor.", "criterion.")
"""What a model has for its own classes only."""
REGIONS = "regions"
"""Entry of an estimator file's metadata: its `RegionSettings` as JSON."""
KIND = "kind"
"""Entry of an estimator file's metadata: its kind; absent for `domain`."""


def new_model(config: ModelConfig, settings: TMTSettings, seed: int, label_set: LabelSet) -> TMTForSemanticSegmentation:
    """A model of the configured sizes and these classes with random weights, a function of `seed`."""
    seed_all(seed)
    backbone = backbone_of(config)
    model = TMTForSemanticSegmentation(_model_config(config, backbone, settings, label_set))
    initialise_from_scratch(model)
    backbone.load(model.model.pixel_level_module.encoder)
    return model


def model_config(config: ModelConfig, settings: TMTSettings, label_set: LabelSet) -> TMTConfig:
    """The configuration of a new model; raises ConfigError for sizes that do not fit each other, or a backbone that is
    not found or cannot be used."""
    return _model_config(config, backbone_of(config), settings, label_set)


def _model_config(config: ModelConfig, backbone: Backbone, settings: TMTSettings, label_set: LabelSet) -> TMTConfig:
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
    return with_default_colours(names)


def predicts(model: TMTForSemanticSegmentation, label_set: LabelSet) -> bool:
    """Whether a model predicts these classes; one whose classes have no names of their own need only have as many."""
    known = label_set_of(model).names
    nameless = all(name == f"LABEL_{i}" for i, name in enumerate(known))
    same = [spelt(name) for name in known] == [spelt(name) for name in label_set.names]
    return same or (nameless and len(known) == len(label_set))


def remember_classes(config: TMTConfig, label_set: LabelSet) -> None:
    """Write names and colours of the classes into a model's configuration."""
    for name, value in _labels(label_set).items():
        setattr(config, name, value)


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
    if label_set is None:
        return load_model(folder, adapt)
    model, class_weights = _open_unweighted(folder, adapt)
    check_classes(folder, model, label_set)
    return weigh_classes(model, class_weights)


def open_named(name: str | Path, adapt: Adapt | None = None) -> TMTForSemanticSegmentation:
    """As `open_model`, of a folder or of an id on a model hub; raises ConfigError for an id that cannot be fetched."""
    return open_model(model_folder(name), adapt)


def model_folder(name: str | Path) -> Path:
    """The folder of a model's name, of a hub id the local copy's; raises ConfigError for one that cannot be fetched."""
    return local_folder(str(name), "model") if is_hub_id(name) else Path(name)


def check_classes(folder: str | Path, model: TMTForSemanticSegmentation, label_set: LabelSet) -> None:
    """Raises ConfigError unless a model, of this folder, predicts the classes of the data; it then remembers them."""
    if not predicts(model, label_set):
        raise ConfigError(
            f"{folder}: model must predict the classes of the data, {listed(label_set.names)}, got "
            f"{listed(label_set_of(model).names)}; give a model trained on them, or a class map that leads to them"
        )
    remember_classes(model.config, label_set)


def open_base(folder: str | Path, adapt: Adapt, label_set: LabelSet, seed: int) -> TMTForSemanticSegmentation:
    """A saved model to start from. For other classes than its own it gets a class predictor that `seed` determines.

    Raises CheckpointError as `open_model` does, and ConfigError for `class_weights` of other classes.
    """
    base, class_weights = _open_unweighted(folder, adapt)
    if predicts(base, label_set):
        remember_classes(base.config, label_set)
        return weigh_classes(base, class_weights)
    config = copy.deepcopy(base.config)
    remember_classes(config, label_set)
    seed_all(seed)
    model = TMTForSemanticSegmentation(config)
    kept = {name: value for name, value in base.state_dict().items() if not name.startswith(PER_CLASS)}
    model.load_state_dict(kept, strict=False)
    return weigh_classes(model, class_weights)


def weigh_classes(model: TMTForSemanticSegmentation, class_weights: ClassWeights) -> TMTForSemanticSegmentation:
    """The model, its loss weighing its classes as a setting says; raises ConfigError for weights of other classes."""
    if class_weights is not None:
        model.config.settings = replace(model.config.settings, class_weights=class_weights)
        try:
            model.criterion.weigh(model.config)
        except ValueError as error:
            raise ConfigError(f"model: {error}") from error
    return model


def save_estimator(estimator: nn.Module, regions: RegionSettings, path: Path, kind: EstimatorKind = "domain") -> None:
    """Write an estimator's weights, with the settings of the regions that it was trained on."""
    weights = {name: tensor.contiguous() for name, tensor in estimator.state_dict().items()}
    marks = {} if kind == "domain" else {KIND: kind}
    save_file(weights, path, metadata={REGIONS: json.dumps(asdict(regions)), **marks})


def kind_of_estimator(path: str | Path) -> EstimatorKind:
    """The kind of the estimator in a file. Raises CheckpointError where it is no estimator's, or of no known kind."""
    kind: Any = _marks(path).get(KIND, "domain")
    if kind not in get_args(EstimatorKind):
        known = ", ".join(get_args(EstimatorKind))
        raise CheckpointError(f"{path}: estimator must be of a kind of this version ({known}), got {kind}")
    return kind


def _marks(path: str | Path) -> dict[str, str]:
    """The metadata of an estimator's file."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise _no_estimator(path, error) from error


def open_with_estimator(name: str | Path, path: str | Path) -> TMTForSemanticSegmentation:
    """A saved model with the estimator that was trained on its features, for `region_evidence`; it predicts without T.

    Regions are those that the estimator was trained on. Raises what `open_named` and `load_estimator` raise.
    """
    given = {REGIONS: "{}"} | _marks(path)
    judged = {"estimator_kind": kind_of_estimator(path), **json.loads(given[REGIONS])}
    model = open_named(name, lambda saved: replace(saved, transferability=False, **judged))
    load_estimator(model, path)
    return model


def _open_unweighted(folder: str | Path, adapt: Adapt | None) -> tuple[TMTForSemanticSegmentation, ClassWeights]:
    """A saved model whose classes all weigh 1, and what they are to weigh once it has the data's names for them."""
    wanted: list[ClassWeights] = []

    def unweighted(saved: TMTSettings) -> TMTSettings:
        settings = saved if adapt is None else adapt(saved)
        wanted.append(settings.class_weights)
        return replace(settings, class_weights=None)

    return load_model(folder, unweighted), wanted[-1] if wanted else None


def load_estimator(model: TMTForSemanticSegmentation, path: str | Path) -> list[str]:
    """Put a trained estimator's weights into a model made for its kind (`TMTSettings.judged_by`).

    Returns how the regions that it was trained on differ from the model's, each as "field is x here and was y".
    Raises CheckpointError when the weights do not fit.
    """
    kind = kind_of_estimator(path)
    if kind != model.config.settings.estimator_kind:
        expected = model.config.settings.estimator_kind
        raise CheckpointError(f"{path}: estimator must be of kind {expected}, as the model's is, got {kind}")
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            weights = {name: file.get_tensor(name) for name in names}
            trained = json.loads((file.metadata() or {}).get(REGIONS, "{}"))
        check_tensors(Path(path), weights.items())
        model.estimator.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise _no_estimator(path, error) from error
    pairs = [(name, getattr(model.config, name, None), value) for name, value in trained.items()]
    return [f"{name} is {here} here and was {there}" for name, here, there in pairs if here != there]


def _no_estimator(path: str | Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path}: cannot be used as transferability estimator: {reason_of(error)}; train it with --stages estimator"
    )


def transfer_switch(on: bool | None) -> Adapt | None:
    """Switches T on or off in inference; None: as the model was saved."""
    return None if on is None else lambda settings: replace(settings, transferability=on, transfer_at_inference=on)


def freeze(module: nn.Module) -> None:
    """Take a module out of training."""
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad = False
