"""The whole model: from images to class logits and masks per query, T, and the loss where labels are given.

image -> pixel.py (features) -> acte.py (regions) -> estimator.py (T) -> decoder.py with tma.py -> criterion.py
"""

import copy
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerForUniversalSegmentationOutput,
    Mask2FormerPixelLevelModuleOutput,
    Mask2FormerPreTrainedModel,
)

from tmt.runtime.precision import full, without_autocast

from .acte import ACTE, Regions, transferability_map
from .configuration import TMTConfig
from .criterion import LossOutput, TMTLoss
from .decoder import Decoded, TransformerModule, mask_logits
from .estimator import DomainDiscriminator
from .groups import Group, parameter_groups
from .inputs import bound_to_size, check_no_trace, check_pixels
from .pixel import PixelLevelModule
from .processor import save_processor
from .registered import call_registered
from .semantic import semantic_scores


@dataclass
class TMTOutput(Mask2FormerForUniversalSegmentationOutput):
    """Mask2Former's output and what TMT adds. L decoder layers, Q queries, K classes; None where not asked for.

    Args:
        loss: (), with gradient, when labels are given.
        class_queries_logits: (B, Q, K + 1), the last class is "no object".
        masks_queries_logits: (B, Q, H / 4, W / 4), sizes rounded up.
        auxiliary_logits: per earlier layer `class_queries_logits` and `masks_queries_logits`, when asked for.
        loss_dict: weighted parts of the loss without gradient, see `criterion.LossOutput`.
        transferability: T (B, H / 8, W / 8) float32 in [0, 1].
        region_labels: (B, H / 8, W / 8) int64, region of each position.
        allowed_fraction: (B, L) mean share of positions a query may attend, before the fallback.
        fallback_rate: (B, L) share of queries that might attend nowhere and fell back.
        cross_attentions: per layer (B, heads, Q, S), with `output_attentions`.
    """

    loss_dict: dict[str, Tensor] | None = None
    transferability: Tensor | None = None
    region_labels: Tensor | None = None
    allowed_fraction: Tensor | None = None
    fallback_rate: Tensor | None = None
    cross_attentions: tuple[Tensor | None, ...] | None = None


def present(tensor: Tensor | None) -> Tensor:
    """A part of an output that is always there, though outputs of transformers may lack any."""
    assert tensor is not None
    return tensor


class Segmenter(nn.Module):
    """The two modules of Mask2Former under the names its checkpoints have."""

    def __init__(self, config: TMTConfig):
        super().__init__()
        self.pixel_level_module = PixelLevelModule(config)
        self.transformer_module = TransformerModule(config.feature_size, config)


class TMTForSemanticSegmentation(Mask2FormerPreTrainedModel):
    """Mask2Former whose queries attend where the mask rule and the transferability condition allow.

    Its state dict is Mask2FormerForUniversalSegmentation's with `estimator.*` added (and `source_features.*` with
    `transfer_features="source"`). The estimator is built frozen: segmentation losses never reach it; to train it,
    call `model.estimator.requires_grad_(True)` and feed it `region_features`.
    """

    config: TMTConfig
    config_class = TMTConfig
    if TYPE_CHECKING:  # as nn.Module's; what decorates transformers' hides its type

        def to(self, *args: Any, **kwargs: Any) -> "TMTForSemanticSegmentation": ...

    def __init__(self, config: TMTConfig):
        config.check()
        super().__init__(config)
        self.model = Segmenter(config)
        self.class_predictor = nn.Linear(config.hidden_dim, (config.num_labels or 0) + 1)
        self.criterion = TMTLoss(config)
        self.acte = ACTE(config.settings)
        self.channels: int = getattr(config.backbone_config, "num_channels", 3)
        self.estimator = DomainDiscriminator(config.mask_feature_size, config.settings)
        self.source_features = PixelLevelModule(config) if config.settings.transfer_features == "source" else None
        call_registered(self)
        self.post_init()
        self._ignore_what_parts_ignore()
        self.freeze_unused()

    def _ignore_what_parts_ignore(self) -> None:
        """Keys that may be missing from a checkpoint or left over: those that a part names, which transformers gathers
        only from its own models' children; and buffers that are computed, though other versions saved them."""
        missing, unexpected = (
            {pattern for part in self.modules() for pattern in getattr(part, kind, None) or ()}
            for kind in ("_keys_to_ignore_on_load_missing", "_keys_to_ignore_on_load_unexpected")
        )
        computed = {name for name, _ in self.named_buffers()} - self.state_dict().keys()
        self._keys_to_ignore_on_load_missing = missing
        self._keys_to_ignore_on_load_unexpected = unexpected | {f"^{re.escape(name)}$" for name in computed}

    def forward(
        self,
        pixel_values: Tensor,
        mask_labels: list[Tensor] | None = None,
        class_labels: list[Tensor] | None = None,
        pixel_mask: Tensor | None = None,
        sample_seeds: Tensor | None = None,
        transferability: Tensor | None = None,
        labelled: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_auxiliary_logits: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> TMTOutput | tuple:
        """Segment images, and compare with labels where they are given.

        Args:
            pixel_values: (B, 3, H, W), normalised with ImageNet's mean and deviation, of the weights' dtype.
            mask_labels: per image (n_i, H, W), bool, or in [0, 1]; class_labels: per image (n_i,) int64.
            pixel_mask: accepted for transformers' image processors, not used (as in transformers).
            sample_seeds: (B,) int64, seeds of the loss's random points; None: from torch's generator.
            transferability: (B, h, w) in [0, 1], used instead of the computed T.
            labelled: (B, H, W) bool, the pixels that have a label, the only ones that the loss looks at; None: all,
                those of no mask being background, as in transformers. Not used with `ignore_unlabelled=False`.
            output_hidden_states, output_auxiliary_logits, output_attentions, return_dict: as in transformers.

        Raises:
            ValueError: pixels of another kind; transferability or labels that do not fit the batch; labels in a trace.
        """
        check_pixels(pixel_values, self.channels, self.dtype)
        pixel_values = bound_to_size(pixel_values)
        wants = _Wants.of(self.config, output_hidden_states, output_auxiliary_logits, output_attentions)
        pixels = self.model.pixel_level_module(pixel_values, output_hidden_states=wants.hidden_states)
        mask_features = pixels.decoder_last_hidden_state
        transfer, regions = self._transferability(pixel_values, mask_features, transferability)
        decoded = self.model.transformer_module(
            pixels.decoder_hidden_states, mask_features, transfer, record=wants.attentions
        )
        class_logits = full(self.class_predictor(decoded.queries))  # (L + 1, B, Q, K + 1)
        losses = None
        if mask_labels is not None and class_labels is not None:
            wanted = mask_labels, class_labels, sample_seeds, labelled
            losses = self._loss(decoded, mask_features, class_logits, *wanted)
        output = _output(wants, pixels, decoded, class_logits, losses, transfer, regions)
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    def _loss(
        self, decoded, mask_features, class_logits, mask_labels, class_labels, sample_seeds, labelled
    ) -> LossOutput:
        check_no_trace()
        first = 0 if self.config.use_auxiliary_loss else -1
        return self.criterion(
            decoded.mask_embeddings[first:],
            mask_features,
            class_logits[first:],
            mask_labels,
            class_labels,
            sample_seeds,
            labelled,
        )

    @torch.no_grad()
    def _transferability(
        self, pixel_values: Tensor, mask_features: Tensor, given: Tensor | None
    ) -> tuple[Tensor | None, Regions | None]:
        """pixel_values (B, 3, H, W), mask_features (B, E, H4, W4) -> T (B, H8, W8) and the regions it was judged on."""
        if given is not None:
            if given.ndim != 3 or len(given) != len(pixel_values):
                raise ValueError(
                    f"TMTForSemanticSegmentation: transferability must be ({len(pixel_values)}, h, w), "
                    f"got {tuple(given.shape)}"
                )
            return given, None
        config: Any = self.config  # its fields one by one: torch.compile cannot follow the making of `settings`
        if not config.transferability or not (self.training or config.transfer_at_inference):
            return None, None
        if self.source_features is not None:
            mask_features = self.source_features(pixel_values).decoder_last_hidden_state
        regions = self.acte(mask_features)
        with without_autocast(mask_features):
            domain_logits = self.estimator(regions.features)
        return transferability_map(domain_logits, regions.labels), regions

    @torch.no_grad()
    def region_features(self, pixel_values: Tensor) -> Regions:
        """pixel_values (B, 3, H, W) -> what the estimator is trained on: float32, no gradient, no decoder."""
        module = self.model.pixel_level_module if self.source_features is None else self.source_features
        with without_autocast(pixel_values):
            return self.acte(module(pixel_values).decoder_last_hidden_state)

    def semantic_probabilities(self, outputs: TMTOutput, size: tuple[int, int]) -> Tensor:
        """Class scores of each pixel: sum over queries of class probability times mask probability.

        Args:
            outputs: of `forward`.
            size: (H, W) to which mask logits are upsampled, bilinearly and in one step; probabilities come after.

        Returns:
            (B, K, H, W) float32; not normalised, the largest class is the prediction.
        """
        return semantic_scores(
            present(outputs.class_queries_logits), present(outputs.masks_queries_logits), (size[0], size[1])
        )

    def freeze_unused(self) -> None:
        """Freeze what no segmentation loss reaches, so that plain DDP finds a gradient for every trainable weight."""
        self.estimator.requires_grad_(False)
        self.model.pixel_level_module.freeze_unused()
        if self.source_features is not None:
            self.source_features.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As transformers', which makes every loaded weight trainable; those that are frozen stay so here."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).freeze_unused()
        return loaded

    def freeze_source_features(self) -> None:
        """Keep the present backbone and pixel decoder as the source T is judged on; saved with the model."""
        self.config.settings = replace(self.config.settings, transfer_features="source")
        self.source_features = copy.deepcopy(self.model.pixel_level_module)
        self.freeze_unused()

    def train(self, mode: bool = True) -> "TMTForSemanticSegmentation":
        """As nn.Module's; the frozen source features stay in evaluation mode."""
        super().train(mode)
        if self.source_features is not None:
            self.source_features.eval()
        return self

    def parameter_groups(self, lr: float, weight_decay: float, backbone_multiplier: float) -> list[Group]:
        """Optimiser groups of the trainable parameters, see `groups.parameter_groups`."""
        return parameter_groups(self, lr, weight_decay, backbone_multiplier)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As transformers', with an image processor beside the model, which its pipeline asks for."""
        super().save_pretrained(save_directory, *args, **kwargs)
        save_processor(save_directory)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, TMTLoss):
            module.reset()
        else:
            super()._init_weights(module)


@dataclass(frozen=True)
class _Wants:
    """What a call asks for beside the logits."""

    hidden_states: bool
    auxiliary_logits: bool
    attentions: bool

    @classmethod
    def of(cls, config: TMTConfig, hidden_states: bool | None, auxiliary: bool | None, attentions: bool | None):
        """Each from the call, else from the configuration."""
        return cls(
            bool(config.output_hidden_states if hidden_states is None else hidden_states),
            bool(config.output_auxiliary_logits if auxiliary is None else auxiliary),
            bool(config.output_attentions if attentions is None else attentions),
        )


def _output(
    wants: _Wants,
    pixels: Mask2FormerPixelLevelModuleOutput,
    decoded: Decoded,
    class_logits: Tensor,
    losses: LossOutput | None,
    transfer: Tensor | None,
    regions: Regions | None,
) -> TMTOutput:
    """Everything of a call under transformers' names; class_logits (L + 1, B, Q, K + 1)."""
    mask_features = present(pixels.decoder_last_hidden_state)
    records = decoded.records
    output = TMTOutput(
        loss=None if losses is None else losses.loss,
        loss_dict=None if losses is None else losses.parts,
        class_queries_logits=class_logits[-1],
        masks_queries_logits=_masks(decoded.mask_embeddings[-1], mask_features),
        encoder_last_hidden_state=pixels.encoder_last_hidden_state,
        pixel_decoder_last_hidden_state=mask_features,
        transformer_decoder_last_hidden_state=decoded.hidden_states[-1],
        transferability=transfer,
        region_labels=None if regions is None else regions.labels,
        allowed_fraction=torch.stack([record.allowed_fraction for record in records], 1),
        fallback_rate=torch.stack([record.fallback_rate for record in records], 1),
    )
    if wants.auxiliary_logits:
        output.auxiliary_logits = [
            {"masks_queries_logits": _masks(embeddings, mask_features), "class_queries_logits": logits}
            for embeddings, logits in zip(decoded.mask_embeddings[:-1], class_logits[:-1], strict=True)
        ]
    if wants.hidden_states:
        output.encoder_hidden_states = pixels.encoder_hidden_states
        output.pixel_decoder_hidden_states = pixels.decoder_hidden_states
        output.transformer_decoder_hidden_states = decoded.hidden_states  # type: ignore[assignment]  # of any length
    if wants.attentions:
        output.attentions = tuple(record.self_attention for record in records)  # type: ignore[assignment]
        output.cross_attentions = tuple(record.cross_attention for record in records)
    return output


def _masks(mask_embeddings: Tensor, mask_features: Tensor) -> Tensor:
    """mask_embeddings (B, Q, E), mask_features (B, E, H4, W4) -> mask logits (B, Q, H4, W4)."""
    return mask_logits(mask_embeddings, mask_features.flatten(2)).unflatten(2, mask_features.shape[-2:])
