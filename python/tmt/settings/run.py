"""All settings of a run, and what its stages leave. Defaults: what measured best, else the paper's, else ours."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tmt.settings.data import AugmentConfig, DataConfig
from tmt.settings.fields import NOT_NEGATIVE, Settings, affected, group, setting
from tmt.settings.model import ModelConfig
from tmt.settings.training import EstimatorConfig, FitConfig, InferenceConfig, MetricConfig

Stage = Literal["source", "estimator", "linear", "full", "joint", "leep", "otce", "tmt"]
Device = Literal["auto", "cpu", "cuda"]
TrackerName = Literal["tensorboard", "wandb", "mlflow"]
ORDER: tuple[Stage, ...] = get_args(Stage)
TRACKERS: tuple[TrackerName, ...] = get_args(TrackerName)


@dataclass(frozen=True)
class Config(Settings):
    """Train a source model, the transferability estimator, and target models by TMT and what it is compared with."""

    out: str = setting("runs/tmt", affects="nothing")
    """The run's folder; must be empty or absent unless `resume` is set."""
    resume: bool = setting(False, affects="nothing")
    """Continue the run in `out` with the same settings: finished stages are skipped, a broken one goes on exactly.
    A stage whose learning rate is constant may be given more steps."""
    stages: tuple[Stage, ...] = setting(("source", "estimator", "full", "tmt"), affects="nothing")
    """Stages to run, as `source,estimator`; always in the order source, estimator, linear, full, joint, leep, otce,
    tmt. All but source need a source model, tmt the estimator too: from this run's folder, or from `source_model` and
    `estimator_weights`. linear, full, joint, leep, otce and tmt each train one target model."""
    source_model: str | None = setting(None, affects="source")
    """Folder of a saved source model to use instead of this run's `source/model`."""
    estimator_weights: str | None = setting(None, affects="estimator")
    """File of a trained discriminator to use instead of this run's `estimator/estimator.safetensors`."""
    seed: int = setting(0, NOT_NEGATIVE, affects="source")
    """Seed of weights, data order, augmentation and loss points."""
    device: Device = setting("auto", affects="target")
    """Where to train; auto: CUDA when there is a GPU, else the CPU."""
    gradient_checkpointing: bool = setting(False, affects="nothing")
    """Compute layers of backbone, pixel decoder and decoder again in the backward pass instead of keeping what they
    made: less memory, more time. Backbones without this in transformers, such as ResNets, keep it."""
    track: tuple[TrackerName, ...] = setting((), affects="nothing")
    """Trackers that get what is recorded, too, as `tensorboard,wandb` (extra [track])."""
    pictures: int = setting(4, NOT_NEGATIVE, affects="nothing")
    """Target validation images to draw at the end."""
    data: DataConfig = group(DataConfig, affects="source")
    """The two domains"""
    augment: AugmentConfig = group(AugmentConfig, affects="source")
    """Training augmentation"""
    model: ModelConfig = group(ModelConfig, affects="source")
    """Model"""
    evaluation: InferenceConfig = group(InferenceConfig, affects="target")
    """Evaluation during training and at its end, and pictures"""
    source: FitConfig = group(FitConfig, affects="source")
    """Source stage"""
    estimator: EstimatorConfig = group(EstimatorConfig, affects="estimator")
    """Estimator stage"""
    target: FitConfig = group(FitConfig, affects="target")
    """Target stages: the same for every method"""
    metric: MetricConfig = group(MetricConfig, affects="target")
    """First stage of LEEP and OTCE fine-tuning"""


ESTIMATOR_FILE = "estimator.safetensors"


def outcome(folder: Path, stage: str) -> Path:
    """What a stage leaves for others in a run's folder: a discriminator's file, or a model's folder."""
    return folder / stage / (ESTIMATOR_FILE if stage == "estimator" else "model")


def source_model(config: Config, folder: Path) -> Path:
    """The folder of the source model that later stages of the run in `folder` start from."""
    return Path(config.source_model or outcome(folder, "source"))


def estimator_weights(config: Config, folder: Path) -> Path:
    """The file of the trained discriminator that the run in `folder` uses."""
    return Path(config.estimator_weights or outcome(folder, "estimator"))


def inputs_of(stage: str) -> tuple[Stage, ...]:
    """The stages whose outcomes a stage starts from."""
    match stage:
        case "source":
            return ()
        case "tmt":
            return ("source", "estimator")
    return ("source",)


AFFECTS = affected(Config)
"""The first stage that each setting of a run affects, by the setting's name with dots."""
