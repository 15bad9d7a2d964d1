"""Every setting of a run, as frozen dataclasses. Defaults: what measured best, else the paper's, else ours.

Nothing here imports torch, so that `--help` is quick. `tmt.settings.arguments` makes these of command lines and YAML.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from tmt.errors import ConfigError

Stage = Literal["source", "estimator", "linear", "full", "leep", "otce", "tmt"]
DatasetName = Literal["cityscapes", "bdd100k", "mapillary", "gtav", "synthia", "folders"]
MapillaryMapping = Literal["strict", "broad"]
MapillaryVersion = Literal["v1.2", "v2.0"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class AugmentConfig:
    """Training augmentation, applied in this order."""

    scale: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)
    """Range of the factor on the image's short side."""
    crop: tuple[PositiveInt, PositiveInt] = (512, 1024)
    """Height and width of the crop, in pixels."""
    max_class_share: ClosedUnitInterval = 0.75
    """A crop whose largest class takes more than this share of the labelled pixels is drawn again."""
    jitter: ClosedUnitInterval = 0.5
    """Probability of each of brightness, contrast, saturation and hue to be jittered."""
    flip: ClosedUnitInterval = 0.5
    """Probability of a flip left to right."""
    rare_class_temperature: PositiveFloat | None = None
    """Temperature of rare class sampling (DAFormer): images are drawn by their rare classes, class c with probability
    softmax((1 - its share of pixels) / temperature), 0.01 there; none: each epoch visits every image once."""


@dataclass(frozen=True)
class DataConfig:
    """The two domains, of the same classes. Without roots, synthetic street scenes are drawn and written in each
    dataset's own layout. `folders` is a dataset of your own: images/SPLIT, labels/SPLIT and classes.csv."""

    source: DatasetName = "gtav"
    """Layout and label encoding of the source domain."""
    target: DatasetName = "cityscapes"
    """Layout and label encoding of the target domain."""
    source_root: str | None = None
    """Folder of the source dataset; none: synthetic scenes."""
    target_root: str | None = None
    """Folder of the target dataset; none: synthetic scenes."""
    mapillary_mapping: MapillaryMapping = "strict"
    """Mapillary labels that count as a Cityscapes class: `strict`, those of one meaning; `broad`, near ones too."""
    mapillary_version: MapillaryVersion | None = None
    """Release of the Mapillary labels, v1.2 or v2.0; none: the newest that is there."""
    synthetic_folder: str | None = None
    """Where synthetic scenes are kept, to be shared by runs; none: `data` in the run's folder."""
    synthetic_source: PositiveInt = 400
    """Synthetic training images of the source domain."""
    synthetic_target: PositiveInt = 100
    """Synthetic training images of the target domain."""
    synthetic_val: PositiveInt = 50
    """Synthetic validation images of each domain."""
    synthetic_distance: NonNegativeFloat = 1.0
    """How far the synthetic domains' looks are from what they have in common: 1, their own in full; 0, alike."""
    synthetic_size: tuple[PositiveInt, PositiveInt] = (192, 384)
    """Height and width of synthetic images, in pixels."""
    workers: NonNegativeInt = 4
    """Processes that load training images; 0: load in the training process."""


@dataclass(frozen=True)
class ModelConfig:
    """The segmentation model and the two parts TMT adds to it."""

    base: str | None = None
    """Folder of a model in transformers' Mask2Former format that the source stage starts from, the sizes below then not
    being used; of other classes than the data's, its class predictor starts anew. none: a new model of these sizes,
    from random weights."""
    backbone: Literal["swin", "resnet50", "resnet"] = "swin"
    """Backbone of a new model; `resnet` is one of basic blocks with `depths` and `widths`."""
    embed_dim: PositiveInt = 96
    """Swin: channels of the first stage (96 is Swin-T)."""
    depths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (2, 2, 6, 2)
    """Swin, resnet: blocks in each stage."""
    widths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (64, 128, 256, 512)
    """Resnet: channels of each stage."""
    heads: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (3, 6, 12, 24)
    """Swin: attention heads in each stage."""
    window: PositiveInt = 7
    """Swin: window size."""
    drop_path: ClosedUnitInterval = 0.3
    """Swin: stochastic depth rate."""
    hidden: PositiveInt = 256
    """Channels of the pixel decoder, the mask features and the queries."""
    ffn: PositiveInt = 2048
    """Hidden channels of the transformer decoder's feed-forward layers."""
    encoder_ffn: PositiveInt = 1024
    """Hidden channels of the pixel decoder's feed-forward layers."""
    encoder_layers: PositiveInt = 6
    """Layers of the pixel decoder."""
    decoder_layers: PositiveInt = 9
    """Layers of the transformer decoder."""
    attention_heads: PositiveInt = 8
    """Attention heads of both decoders."""
    queries: PositiveInt = 100
    """Object queries of the decoder."""
    points: PositiveInt = 12544
    """Points at which the mask losses are sampled."""
    mask_rule: Literal["uncertain", "foreground", "none"] = "foreground"
    """Where TMT's queries may attend: `foreground` is Mask2Former's own rule (mask probability >= threshold) and scores
    better in our studies, `uncertain` the paper's Eq. 13 (<= threshold), `none` leaves it to the transferability."""
    plain_mask_rule: Literal["uncertain", "foreground", "none"] = "foreground"
    """The mask rule of the source model and of full fine-tuning, which are plain Mask2Former."""
    mask_threshold: ClosedUnitInterval = 0.5
    """Threshold of the mask rule, a probability (lambda_M)."""
    fallback: Literal["all", "transfer"] = "all"
    """What a query that may attend nowhere does: attend everywhere, or try the transferability condition first."""
    transfer_fraction: ClosedUnitInterval = 0.30
    """Share of the most transferable positions that are excluded from attention (p_T)."""
    transfer_exclude: Literal["high", "low"] = "high"
    """Which positions that share is of: those of highest transferability (Eq. 13), or, as a control, of lowest."""
    transfer_mode: Literal["mask", "bias"] = "mask"
    """Transferability as a hard mask, or as the soft bias log(1 - T) (ablation without TMA)."""
    regions: Literal["superpixel", "grid"] = "superpixel"
    """Regions that the transferability is judged on: superpixels, or fixed cells (ablation without ACTE)."""
    cell: PositiveInt = 4
    """Side of a superpixel's initial cell, in positions of 8 image pixels each."""
    superpixel_iterations: PositiveInt = 6
    """Iterations of the superpixel clustering (L)."""
    kappa: PositiveFloat = 14.285714285714286
    """Sharpness of the clustering's soft assignment (1 / 0.07)."""
    estimator_hidden: PositiveInt = 256
    """Hidden channels of the domain discriminator."""
    transfer_features: Literal["live", "source"] = "live"
    """Features the transferability is judged on: the model's own, or those of a frozen copy of the source model."""
    transfer_at_inference: bool = True
    """Whether TMT uses the transferability in evaluation and prediction too, or in training only (ablation)."""


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """How an image is segmented: whole or in windows, once or several times with the class scores averaged."""

    window: tuple[PositiveInt, PositiveInt] | None = None
    """Height and width of a sliding window, in pixels as the network sees them; none: the whole image at once."""
    stride: tuple[PositiveInt, PositiveInt] | None = None
    """Pixels from one window to the next, down and across, at most its height and width; none: two thirds of them."""
    scales: tuple[PositiveFloat, ...] = (1.0,)
    """Factors on the image's size; with several, their scores are averaged, at the image's own size."""
    flip: bool = False
    """Whether each image is segmented mirrored as well, and the scores averaged."""
    amp: bool = False
    """Whether CUDA computes in bfloat16 autocast; the CPU always uses float32."""


@dataclass(frozen=True)
class FitConfig:
    """One training stage."""

    images: PositiveInt | None = None
    """Training images to use, a subset drawn with the run's seed (few labels); none: all of them. Those of the target
    are used by the estimator, too."""
    steps: PositiveInt = 20_000
    """Training steps."""
    batch_size: PositiveInt = 16
    """Images per step, over all processes."""
    lr: PositiveFloat = 1e-4
    """Learning rate of AdamW at the start of the poly schedule."""
    backbone_lr_factor: PositiveFloat = 0.1
    """The backbone's learning rate is `lr` times this."""
    weight_decay: NonNegativeFloat = 0.05
    """Weight decay; norms, embeddings and relative position tables always have 0."""
    warmup: NonNegativeInt = 0
    """Steps of linear warm-up."""
    power: NonNegativeFloat = 0.9
    """Exponent of the poly schedule: lr x (1 - step / steps) ** power."""
    clip: PositiveFloat = 0.01
    """Largest norm of the whole gradient."""
    amp: bool = True
    """Whether CUDA trains in bfloat16 autocast; the CPU always uses float32."""
    eval_every: PositiveInt = 1000
    """Steps between evaluations on the validation split; the last step is always evaluated."""
    checkpoint_every: PositiveInt = 500
    """Steps between checkpoints."""
    log_every: PositiveInt = 10
    """Steps between lines in metrics.jsonl."""


@dataclass(frozen=True)
class EstimatorConfig:
    """The domain discriminator's training on the frozen source model's region features."""

    steps: PositiveInt = 2000
    """Training steps."""
    batch_size: PositiveInt = 8
    """Images per domain and step, over all processes: a step sees as many source as target images."""
    lr: PositiveFloat = 1e-4
    """Learning rate of AdamW, constant."""
    weight_decay: NonNegativeFloat = 0.05
    """Weight decay of the discriminator's matrices."""
    eval_every: PositiveInt = 500
    """Steps between evaluations on the validation splits."""
    eval_images: PositiveInt = 100
    """Validation images per domain for accuracy and proxy A-distance."""
    checkpoint_every: PositiveInt = 500
    """Steps between checkpoints."""
    log_every: PositiveInt = 10
    """Steps between lines in metrics.jsonl."""
    saturated: ClosedUnitInterval = 0.98
    """Held-out accuracy above which a warning says that the transferability carries little information."""


@dataclass(frozen=True)
class MetricConfig:
    """The first stage of LEEP and OTCE fine-tuning, which maximises a transferability metric; the second is full
    fine-tuning. Its steps are taken out of `target.steps`, under the same learning rate schedule, and see the same
    target images as every method; OTCE's see as many source images besides."""

    fraction: ClosedUnitInterval = 0.10
    """Share of the target stage's steps, rounded, at least one unless it is 0."""
    leep_pixels: PositiveInt = 4096
    """LEEP: labelled target pixels per step over all processes, rounded up to as many from each image."""
    leep_momentum: ClosedUnitInterval = 0.9
    """LEEP: weight of earlier steps in the running estimate of the joint distribution of source and target classes."""
    otce_pixels: PositiveInt = 1024
    """OTCE: labelled pixels per domain and step over all processes, rounded up to as many from each image."""
    otce_epsilon: PositiveFloat = 0.1
    """OTCE: weight of the entropy in the optimal transport."""
    otce_iterations: PositiveInt = 50
    """OTCE: iterations of Sinkhorn's algorithm."""


@dataclass(frozen=True)
class Config:
    """Train a source model, the transferability estimator, and target models by TMT and what it is compared with."""

    out: str = "runs/tmt"
    """The run's folder; must be empty or absent unless `resume` is set."""
    resume: bool = False
    """Continue the run in `out` with the same settings: finished stages are skipped, a broken one goes on exactly."""
    stages: tuple[Stage, ...] = ("source", "estimator", "full", "tmt")
    """Stages to run, as `source,estimator`; always in the order source, estimator, linear, full, leep, otce, tmt. All
    but source need a source model, tmt the estimator too: from this run's folder, or from `source_model` and
    `estimator_weights`. linear, full, leep, otce and tmt each train one target model."""
    source_model: str | None = None
    """Folder of a saved source model to use instead of this run's `source/model`."""
    estimator_weights: str | None = None
    """File of a trained discriminator to use instead of this run's `estimator/estimator.safetensors`."""
    seed: NonNegativeInt = 0
    """Seed of weights, data order, augmentation and loss points."""
    device: Device = "auto"
    """Where to train; auto: CUDA when there is a GPU, else the CPU."""
    pictures: NonNegativeInt = 4
    """Target validation images to draw at the end."""
    data: DataConfig = field(default_factory=DataConfig)
    """The two domains"""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Training augmentation"""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Model"""
    evaluation: InferenceConfig = field(default_factory=InferenceConfig)
    """Evaluation during training and at its end, and pictures"""
    source: FitConfig = field(default_factory=FitConfig)
    """Source stage"""
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    """Estimator stage"""
    target: FitConfig = field(default_factory=FitConfig)
    """Target stages: the same for every method"""
    metric: MetricConfig = field(default_factory=MetricConfig)
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


def _check_synthetic(config: Config) -> None:
    data = config.data
    if data.source == data.target:
        raise ConfigError(f"data: synthetic source and target must be different domains, got {data.source} for both")
    if "folders" in (data.source, data.target):
        raise ConfigError("data: folders is a dataset of your own; give --data.source_root and --data.target_root")
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
    for i, heads in enumerate(model.heads if model.backbone == "swin" else ()):
        if (model.embed_dim << i) % heads:
            raise ConfigError(f"model.heads: must divide the stage's {model.embed_dim << i} channels, got {heads}")
