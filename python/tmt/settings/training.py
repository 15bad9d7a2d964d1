"""The settings of the training stages, and of how their models are applied."""

from dataclasses import dataclass
from typing import Literal

from tmt.settings.fields import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, SHARE, Range, Settings, setting
from tmt.settings.model import EstimatorKind


@dataclass(frozen=True, kw_only=True)
class InferenceConfig(Settings):
    """How an image is segmented: whole or in windows, once or several times with the class scores averaged."""

    height: int | None = setting(None, NOT_NEGATIVE)
    """Height in pixels at which the network sees an image, its scores enlarged to the image's own size; none: the one
    it was trained at (data.height); 0: the image's own."""
    window: tuple[int, int] | None = setting(None, AT_LEAST_ONE)
    """Height and width of a sliding window, in pixels as the network sees them; none: the whole image at once."""
    stride: tuple[int, int] | None = setting(None, AT_LEAST_ONE)
    """Pixels from one window to the next, down and across, at most its height and width; none: two thirds of them."""
    scales: tuple[float, ...] = setting((1.0,), POSITIVE)
    """Factors on the image's size; with several, their scores are averaged, at the image's own size."""
    flip: bool = setting(False)
    """Whether each image is segmented mirrored as well, and the scores averaged."""
    amp: bool = setting(False)
    """Whether CUDA computes in bfloat16 autocast; the CPU always uses float32."""


@dataclass(frozen=True)
class FitConfig(Settings):
    """One training stage."""

    images: int | None = setting(None, AT_LEAST_ONE)
    """Training images to use, a subset drawn with the run's seed (few labels); none: all of them. Those of the target
    are used by the estimator, too."""
    steps: int = setting(20_000, AT_LEAST_ONE)
    """Training steps."""
    batch_size: int = setting(16, AT_LEAST_ONE)
    """Images per step, over all processes."""
    lr: float = setting(1e-4, POSITIVE)
    """Learning rate of AdamW at the start of the poly schedule."""
    backbone_lr_factor: float = setting(0.1, POSITIVE)
    """The backbone's learning rate is `lr` times this."""
    backbone_layer_decay: float = setting(1.0, Range(above=0, at_most=1))
    """Each layer of the backbone learns with this times the rate of the next; 1: all alike. 0.65 to 0.9 suit pretrained
    transformers."""
    weight_decay: float = setting(0.05, NOT_NEGATIVE)
    """Weight decay; norms, embeddings and relative position tables always have 0."""
    warmup: int = setting(0, NOT_NEGATIVE)
    """Steps of linear warm-up."""
    power: float = setting(0.9, NOT_NEGATIVE)
    """Exponent of the poly schedule: lr x (1 - step / steps) ** power."""
    clip: float = setting(0.01, POSITIVE)
    """Largest norm of the whole gradient."""
    amp: bool = setting(True)
    """Whether CUDA trains in bfloat16 autocast; the CPU always uses float32."""
    eval_every: int = setting(1000, AT_LEAST_ONE)
    """Steps between evaluations on the validation split; the last step is always evaluated."""
    checkpoint_every: int = setting(500, AT_LEAST_ONE)
    """Steps between checkpoints."""
    log_every: int = setting(10, AT_LEAST_ONE)
    """Steps between lines in metrics.jsonl."""


@dataclass(frozen=True)
class EstimatorConfig(Settings):
    """The training of what judges regions, on the frozen source model."""

    kind: EstimatorKind = setting("domain")
    """What T of a region is 1 minus: `domain`, the probability that it is of the target (the paper's); `conditional`,
    that probability given the classes that the source model predicts there; `entropy`, the source model's uncertainty,
    where nothing is trained; `error`, its expected share of wrong pixels, learnt on the labelled target images. All but
    `domain` judge a frozen copy of the source model: its weights and one more pass an image, in inference too."""
    steps: int = setting(2000, AT_LEAST_ONE)
    """Training steps."""
    batch_size: int = setting(8, AT_LEAST_ONE)
    """Images per domain and step, over all processes: a step sees as many source as target images."""
    lr: float = setting(1e-4, POSITIVE)
    """Learning rate of AdamW, constant."""
    weight_decay: float = setting(0.05, NOT_NEGATIVE)
    """Weight decay of the discriminator's matrices."""
    eval_every: int = setting(500, AT_LEAST_ONE)
    """Steps between evaluations on the validation splits."""
    eval_images: int = setting(100, AT_LEAST_ONE)
    """Validation images per domain for accuracy and proxy A-distance."""
    checkpoint_every: int = setting(500, AT_LEAST_ONE)
    """Steps between checkpoints."""
    log_every: int = setting(10, AT_LEAST_ONE)
    """Steps between lines in metrics.jsonl."""
    counted: Literal["labelled", "image"] = setting("labelled")
    """Regions that discriminators are trained and judged on: those with a labelled pixel, or all that lie in the image,
    for which no label is needed."""
    early_stop: bool = setting(False)
    """Whether the weights of the lowest held-out loss are kept instead of the last, evaluated on images held out of
    training instead of on the validation splits; of the kind `error`, always."""
    held_out: float = setting(0.2, SHARE)
    """Share of each domain's training images that `early_stop` holds out, at least one."""
    saturated: float = setting(0.98, SHARE)
    """Held-out accuracy above which a warning says that the transferability carries little information."""

    @property
    def keeps_best(self) -> bool:
        """Whether the outcome is the best of the evaluations, on held-out training images."""
        return self.early_stop or self.kind == "error"


@dataclass(frozen=True)
class MetricConfig(Settings):
    """The first stage of LEEP and OTCE fine-tuning, which maximises a transferability metric; the second is full
    fine-tuning. Its steps are taken out of `target.steps`, under the same learning rate schedule, and see the same
    target images as every method; OTCE's see as many source images besides."""

    fraction: float = setting(0.10, SHARE)
    """Share of the target stage's steps, rounded, at least one unless it is 0."""
    leep_pixels: int = setting(4096, AT_LEAST_ONE)
    """LEEP: labelled target pixels per step over all processes, rounded up to as many from each image."""
    leep_momentum: float = setting(0.9, SHARE)
    """LEEP: weight of earlier steps in the running estimate of the joint distribution of source and target classes."""
    otce_pixels: int = setting(1024, AT_LEAST_ONE)
    """OTCE: labelled pixels per domain and step over all processes, rounded up to as many from each image."""
    otce_epsilon: float = setting(0.1, POSITIVE)
    """OTCE: weight of the entropy in the optimal transport."""
    otce_iterations: int = setting(50, AT_LEAST_ONE)
    """OTCE: iterations of Sinkhorn's algorithm."""
