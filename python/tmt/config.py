"""Every setting of a run, as frozen dataclasses: the defaults are the paper's, or ours where it is silent.

Nothing here imports torch, so that `--help` is quick. `parse` turns a command line into a `Config`; YAML presets
(`--config demo`, `--config my.yaml`) and single overrides (`--target.lr 2e-4`) mix, the later one wins.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, TypeVar

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from tmt.errors import ConfigError

PRESETS = Path(__file__).parent / "presets"
Stage = Literal["source", "estimator", "full", "tmt"]
DatasetName = Literal["cityscapes", "gtav"]
Device = Literal["auto", "cpu", "cuda"]
Settings = TypeVar("Settings")


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


@dataclass(frozen=True)
class DataConfig:
    """The two domains. Without roots, synthetic street scenes are drawn and written in each dataset's own layout."""

    source: DatasetName = "gtav"
    """Layout and label encoding of the source domain."""
    target: DatasetName = "cityscapes"
    """Layout and label encoding of the target domain."""
    source_root: str | None = None
    """Folder of the source dataset; none: synthetic scenes."""
    target_root: str | None = None
    """Folder of the target dataset; none: synthetic scenes."""
    synthetic_folder: str | None = None
    """Where synthetic scenes are kept, to be shared by runs; none: `data` in the run's folder."""
    synthetic_source: PositiveInt = 400
    """Synthetic training images of the source domain."""
    synthetic_target: PositiveInt = 100
    """Synthetic training images of the target domain."""
    synthetic_val: PositiveInt = 50
    """Synthetic validation images of each domain."""
    synthetic_size: tuple[PositiveInt, PositiveInt] = (192, 384)
    """Height and width of synthetic images, in pixels."""
    workers: NonNegativeInt = 4
    """Processes that load training images; 0: load in the training process."""


@dataclass(frozen=True)
class ModelConfig:
    """The segmentation model and the two parts TMT adds to it."""

    base: str | None = None
    """Folder of a model in transformers' Mask2Former format that the source stage starts from, the sizes below then not
    being used; none: a new model of these sizes, from random weights."""
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
    mask_rule: Literal["uncertain", "foreground", "none"] = "uncertain"
    """Where TMT's queries may attend: `uncertain` is the paper's Eq. 13 (mask probability <= threshold), `foreground`
    Mask2Former's own (>= threshold), `none` leaves it to the transferability alone."""
    plain_mask_rule: Literal["uncertain", "foreground", "none"] = "foreground"
    """The mask rule of the source model and of full fine-tuning, which are plain Mask2Former."""
    mask_threshold: ClosedUnitInterval = 0.5
    """Threshold of the mask rule, a probability (lambda_M)."""
    fallback: Literal["all", "transfer"] = "all"
    """What a query that may attend nowhere does: attend everywhere, or try the transferability condition first."""
    transfer_fraction: ClosedUnitInterval = 0.30
    """Share of the most transferable positions that are excluded from attention (p_T)."""
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


@dataclass(frozen=True)
class FitConfig:
    """One training stage."""

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
class Config:
    """Train a source model, the transferability estimator, and target models by full fine-tuning and TMT."""

    out: str = "runs/tmt"
    """The run's folder; must be empty or absent unless `resume` is set."""
    resume: bool = False
    """Continue the run in `out` with the same settings: finished stages are skipped, a broken one goes on exactly."""
    stages: tuple[Stage, ...] = ("source", "estimator", "full", "tmt")
    """Stages to run, as `source,estimator`; always in this order. Each needs the output of those before it: from this
    run's folder, or from `source_model` and `estimator_weights`."""
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
    source: FitConfig = field(default_factory=FitConfig)
    """Source stage"""
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    """Estimator stage"""
    target: FitConfig = field(default_factory=FitConfig)
    """Target stages: the same for every method"""


FREE_ON_RESUME = frozenset({"out", "resume", "stages", "pictures", "data.workers", "config"})
"""Settings that may change between the start of a run and its continuation, without changing any result."""


def presets() -> list[str]:
    """Names that `--config` takes beside paths."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def build_parser() -> ArgumentParser:
    """The parser of `python -m tmt.train`."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog="python -m tmt.train", description=Config.__doc__, exit_on_error=False)
    parser.add_argument("--config", action="config", help=f"preset ({', '.join(presets())}) or YAML file")
    parser.add_class_arguments(Config, None)
    return parser


def parse(argv: Sequence[str]) -> Config:
    """The configuration of a command line (without the program's name).

    Raises ConfigError, on one line, for an unknown key, a value of the wrong type or outside its range, and for
    settings that contradict each other.
    """
    return parse_with(build_parser(), argv, Config)


def parse_model_command(program: str, argv: Sequence[str], kind: type[Settings]) -> Settings:
    """Parse `python -m tmt.<program> MODEL --...` into the dataclass `kind`, whose field `model` is the positional one.

    Raises ConfigError as `parse` does.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog=f"python -m tmt.{program}", description=kind.__doc__, exit_on_error=False)
    parser.add_argument("model", type=str, help="folder of a saved model, ours or a plain Mask2Former with 19 classes")
    parser.add_class_arguments(kind, None, as_positional=False, skip={"model"})
    return parse_with(parser, argv, kind)


def parse_with(parser: ArgumentParser, argv: Sequence[str], kind: type[Settings]) -> Settings:
    """Parse with any parser made of the fields of the dataclass `kind`; raises ConfigError as `parse` does."""
    try:
        values = vars(parser.instantiate(parser.parse_args(_expand(argv))))
    except (ArgumentError, OSError, ValueError) as error:
        raise ConfigError(_one_line(error, parser)) from error
    config = kind(**{name: _plain(values[name]) for name in kind.__dataclass_fields__})
    if isinstance(config, Config):
        check(config)
    return config


def _plain(value: object) -> object:
    """Numbers of the parser's restricted types as int and float, so that what is saved needs no parser to be read."""
    if is_dataclass(value):
        return replace(value, **{item.name: _plain(getattr(value, item.name)) for item in fields(value)})
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    return value


def to_yaml(config: Config) -> str:
    """The configuration as YAML that `--config` reads back."""
    parser = build_parser()
    return parser.dump(parser.parse_object(asdict(config)))


def from_yaml(path: Path) -> Config:
    """Read what `to_yaml` wrote; raises ConfigError."""
    return parse(["--config", str(path)])


def differences(left: Config, right: Config) -> list[str]:
    """Settings that differ, as `name: left -> right`, leaving out those that may differ when a run is resumed."""
    first, second = flatten(asdict(left)), flatten(asdict(right))
    return [
        f"{name}: {value} -> {second[name]}"
        for name, value in first.items()
        if value != second[name] and name not in FREE_ON_RESUME
    ]


def flatten(tree: dict[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings as `a.b: value`; lists become tuples."""
    flat: dict[str, object] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = tuple(value) if isinstance(value, list) else value
    return flat


def check(config: Config) -> None:
    """Raise ConfigError for settings that contradict each other."""
    if not config.stages:
        raise ConfigError("stages: must name at least one stage, got none; choose from source, estimator, full, tmt")
    if len(set(config.stages)) < len(config.stages):
        raise ConfigError(f"stages: must name each stage once, got {list(config.stages)}")
    if (config.data.source_root is None) != (config.data.target_root is None):
        raise ConfigError(
            f"data: source_root and target_root must be given both or neither, got {config.data.source_root} and "
            f"{config.data.target_root}; with neither, synthetic scenes are used for both"
        )
    if config.data.source_root is None and config.data.source == config.data.target:
        raise ConfigError(
            f"data: synthetic source and target must be different domains, got {config.data.source} for both"
        )
    low, high = config.augment.scale
    if low > high:
        raise ConfigError(f"augment.scale: must be (smallest, largest), got ({low}, {high})")
    _check_model(config.model)


def _check_model(model: ModelConfig) -> None:
    if model.hidden % model.attention_heads:
        raise ConfigError(
            f"model.hidden: must be a multiple of model.attention_heads = {model.attention_heads}, got {model.hidden}"
        )
    for i, heads in enumerate(model.heads if model.backbone == "swin" else ()):
        if (model.embed_dim << i) % heads:
            raise ConfigError(f"model.heads: must divide the stage's {model.embed_dim << i} channels, got {heads}")


def _expand(argv: Sequence[str]) -> list[str]:
    """Shorthands: the name of a preset after --config, `--stages a,b` without brackets, and --resume without value."""
    expanded: list[str] = []
    for i, argument in enumerate(argv):
        option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        name = option if option else (expanded[-1] if expanded else "")
        if value and name == "--config" and value in presets():
            value = str(PRESETS / f"{value}.yaml")
        if value and name == "--stages" and not value.startswith("["):
            value = f"[{value}]"
        if argument == "--resume" and (i + 1 == len(argv) or argv[i + 1].startswith("-")):
            equals, value = "=", "true"
        expanded.append(option + equals + value)
    return expanded


def _one_line(error: Exception, parser: ArgumentParser) -> str:
    text = " ".join(str(error).replace("Parser key ", "").split())
    return f"{text}; {_nearest(text, parser)}see {parser.prog} --help"


def _nearest(text: str, parser: ArgumentParser) -> str:
    if "unrecognized arguments: " not in text:
        return ""
    unknown = text.rsplit("unrecognized arguments: ", 1)[1].split()[0].split("=")[0]
    options = [option for action in parser._actions for option in action.option_strings]
    found = get_close_matches(unknown, options, n=1)
    return f"did you mean {found[0]}? " if found else ""
