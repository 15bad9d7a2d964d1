"""The settings of the segmentation model and of the two parts that TMT adds to it."""

import sys
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

from tmt.settings.fields import AT_LEAST_ONE, NOT_NEGATIVE, SHARE, Range, Settings, setting

MaskRule = Literal["uncertain", "foreground", "none"]
Fallback = Literal["all", "transfer"]
EstimatorKind = Literal["domain", "conditional", "entropy", "error"]
OWN_BACKBONES = ("swin", "resnet50", "resnet", "efficientnet_lite0")
"""Backbones that need neither a hub nor a folder."""
Four = tuple[int, int, int, int]


@dataclass(frozen=True)
class Architecture(Settings):
    """Parts and sizes of a model, which a source model and all that start from it share."""

    base: str | None = setting(None)
    """Folder or hub id of a model in transformers' Mask2Former format that the source stage starts from, the sizes
    below then not being used; of other classes than the data's, its class predictor starts anew. none: a new model of
    these sizes."""
    backbone: str = setting("swin")
    """Backbone of a new model: `swin`, `resnet50`, `resnet` (one of basic blocks with `depths` and `widths`),
    `efficientnet_lite0`, or any that transformers' AutoBackbone knows, as a hub id or a folder (config.json, with or
    without weights)."""
    backbone_weights: Literal["auto", "pretrained", "random"] = setting("auto")
    """Weights that the backbone starts from. `auto`: the pretrained ones of a hub id, of a folder that holds some and
    of `efficientnet_lite0` (ImageNet, extra [pretrained]), else random ones."""
    channels: int = setting(3, AT_LEAST_ONE)
    """Channels of the images that a new model takes; from pictures, 3 (RGB) or 1 (their grey)."""
    embed_dim: int = setting(96, AT_LEAST_ONE)
    """Swin: channels of the first stage (96 is Swin-T)."""
    depths: Four = setting((2, 2, 6, 2), AT_LEAST_ONE)
    """Swin, resnet: blocks in each stage."""
    widths: Four = setting((64, 128, 256, 512), AT_LEAST_ONE)
    """Resnet: channels of each stage."""
    heads: Four = setting((3, 6, 12, 24), AT_LEAST_ONE)
    """Swin: attention heads in each stage."""
    window: int = setting(7, AT_LEAST_ONE)
    """Swin: window size."""
    drop_path: float = setting(0.3, SHARE)
    """Swin: stochastic depth rate."""
    hidden: int = setting(256, AT_LEAST_ONE)
    """Channels of the pixel decoder, the mask features and the queries."""
    ffn: int = setting(2048, AT_LEAST_ONE)
    """Hidden channels of the transformer decoder's feed-forward layers."""
    encoder_ffn: int = setting(1024, AT_LEAST_ONE)
    """Hidden channels of the pixel decoder's feed-forward layers."""
    encoder_layers: int = setting(6, AT_LEAST_ONE)
    """Layers of the pixel decoder."""
    decoder_layers: int = setting(9, AT_LEAST_ONE)
    """Layers of the transformer decoder."""
    attention_heads: int = setting(8, AT_LEAST_ONE)
    """Attention heads of both decoders."""
    queries: int = setting(100, AT_LEAST_ONE)
    """Object queries of the decoder."""
    points: int = setting(12544, AT_LEAST_ONE)
    """Points at which the mask losses are sampled."""


@dataclass(frozen=True)
class RegionSettings(Settings):
    """Which regions an image has and how they are judged: everything of the model that the estimator depends on."""

    regions: Literal["superpixel", "grid"] = setting("superpixel", affects="estimator")
    """Regions that the transferability is judged on: superpixels, or fixed cells (ablation without ACTE)."""
    cell: int = setting(4, AT_LEAST_ONE, affects="estimator")
    """Side of a superpixel's initial cell, in positions of 8 image pixels each."""
    superpixel_iterations: int = setting(6, AT_LEAST_ONE, affects="estimator")
    """Iterations of the superpixel clustering (L)."""
    kappa: float = setting(100 / 7, Range(above=0, at_most=sys.float_info.max), affects="estimator")
    """Sharpness of the clustering's soft assignment (1 / 0.07)."""
    superpixel_dtype: Literal["float32", "bfloat16"] = setting("float32", affects="estimator")
    """`bfloat16`: on CUDA under autocast, superpixels are found from rounded features, on tensor cores; `python -m
    bench.precision` says what that changes."""
    estimator_hidden: int = setting(256, AT_LEAST_ONE, affects="estimator")
    """Hidden channels of the domain discriminator."""


@dataclass(frozen=True)
class AttentionSettings(RegionSettings):
    """Where queries attend, and by which transferability: what may differ between a source and its target models."""

    mask_rule: MaskRule = setting("foreground", affects="target")
    """Where TMT's queries may attend: `foreground` is Mask2Former's own rule (mask probability >= threshold) and scores
    better in our studies, `uncertain` the paper's Eq. 13 (<= threshold), `none` leaves it to the transferability."""
    mask_threshold: float = setting(0.5, SHARE, affects="target")
    """Threshold of the mask rule, a probability (lambda_M)."""
    fallback: Fallback = setting("all", affects="target")
    """What a query that may attend nowhere does: attend everywhere, or try the transferability condition first."""
    transfer_fraction: float = setting(0.30, SHARE, affects="target")
    """Share of the most transferable positions that are excluded from attention (p_T)."""
    transfer_exclude: Literal["high", "low"] = setting("high", affects="target")
    """Which positions that share is of: those of highest transferability (Eq. 13), or, as a control, of lowest."""
    transfer_mode: Literal["mask", "bias"] = setting("mask", affects="target")
    """Transferability as a hard mask, or as the soft bias log(1 - T) (ablation without TMA)."""
    transfer_features: Literal["live", "source"] = setting("live", affects="target")
    """Features the transferability is judged on: the model's own, or those of a frozen copy of the source model."""
    transfer_at_inference: bool = setting(True, affects="target")
    """Whether TMT uses the transferability in evaluation and prediction too, or in training only (ablation)."""


@dataclass(frozen=True)
class LossSettings(Settings):
    """What the loss makes of an image: the same for a source model and all that start from it."""

    ignore_unlabelled: bool = setting(True)
    """Whether pixels without a label (255) are unknown to the loss; otherwise they are background of every mask, as in
    Mask2Former."""
    class_weights: tuple[float, ...] | tuple[str, ...] | None = setting(None, NOT_NEGATIVE)
    """What each class weighs in the classification loss, a number of at least 0 for each class of the data in its
    order, or name=weight for some of them, such as [person=2,rider=4], the others weighing 1; none: all weigh 1. Mask
    losses are not weighted."""


@dataclass(frozen=True)
class JudgeSettings(Settings):
    """What judges regions, and by which predictions: set from the estimator's file and the source model."""

    estimator_kind: EstimatorKind = setting("domain", affects="target")
    """Kind of the estimator, see `estimator.kind`. All but `domain` judge a frozen copy of the source model, whose
    plain pass follows the three settings below."""
    source_mask_rule: MaskRule = setting("foreground", affects="target")
    """The copy's mask rule."""
    source_mask_threshold: float = setting(0.5, SHARE, affects="target")
    """Threshold of the copy's mask rule."""
    source_fallback: Fallback = setting("all", affects="target")
    """What the copy's queries do that may attend nowhere."""

    @property
    def judges_predictions(self) -> bool:
        """Whether the estimator looks at the source model's class probabilities."""
        return self.estimator_kind != "domain"


@dataclass(frozen=True)
class BackboneSettings(Settings):
    """What of the backbone does not train."""

    freeze_backbone: bool = setting(False)
    """Whether the backbone keeps the weights that it starts from; it is in evaluation mode then."""
    freeze_backbone_norms: bool = setting(False)
    """Whether the backbone's batch norms keep their weights and statistics, as small batches may need it."""


@dataclass(frozen=True)
class TMTSettings(JudgeSettings, BackboneSettings, LossSettings, AttentionSettings):
    """What a model adds to Mask2Former's configuration, saved in its config.json."""

    transferability: bool = setting(True, affects="target")
    """Whether T is computed and used; without it and with the mask rule `foreground`, this is plain Mask2Former."""

    @property
    def infers_with_transferability(self) -> bool:
        """Whether evaluation and prediction use T."""
        return self.transferability and self.transfer_at_inference

    def judged_by(self, kind: EstimatorKind, source: "TMTSettings") -> "TMTSettings":
        """These for T by an estimator of this kind, which may judge what a model of the settings `source` predicts."""
        if kind == "domain":
            return replace(self, estimator_kind=kind)
        return replace(
            self,
            estimator_kind=kind,
            transfer_features="source",
            source_mask_rule=source.mask_rule,
            source_mask_threshold=source.mask_threshold,
            source_fallback=source.fallback,
        )


@dataclass(frozen=True)
class ModelConfig(BackboneSettings, LossSettings, AttentionSettings, Architecture):
    """The segmentation model and the two parts TMT adds to it."""

    plain_mask_rule: MaskRule = setting("foreground", affects="target")
    """The mask rule of the source model and of full fine-tuning, which are plain Mask2Former."""


Part = TypeVar("Part", bound=Settings)


def values_of(settings: Settings, kind: type[Settings]) -> dict[str, Any]:
    """The fields of another class of settings, by name, with the values that `settings` gives them."""
    return {item.name: getattr(settings, item.name) for item in fields(kind)}


def part_of(settings: Settings, kind: type[Part]) -> Part:
    """The settings of a class whose fields `settings` has among others."""
    return kind(**values_of(settings, kind))
