"""What a call of the model gives back, put together from what the network makes of images of one size each."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerForUniversalSegmentationOutput,
    Mask2FormerPixelLevelModuleOutput,
)

from .acte import Regions
from .configuration import TMTConfig
from .criterion import LossOutput
from .decoder import Decoded
from .padding import Frame
from .semantic import full_masks


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
        mask_sizes: (B, 2) int64, rows and columns of `masks_queries_logits` that show the image; None: all. Beyond
            them, in padding, mask logits are -100, a probability of 0, regions are -1 and everything else is 0.
    """

    loss_dict: dict[str, Tensor] | None = None
    transferability: Tensor | None = None
    region_labels: Tensor | None = None
    allowed_fraction: Tensor | None = None
    fallback_rate: Tensor | None = None
    cross_attentions: tuple[Tensor | None, ...] | None = None
    mask_sizes: Tensor | None = None


def present(tensor: Tensor | None) -> Tensor:
    """A part of an output that is always there, though outputs of transformers may lack any."""
    assert tensor is not None
    return tensor


@dataclass(frozen=True)
class Wants:
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


class Seen(NamedTuple):
    """What the network makes of images of one size."""

    pixels: Mask2FormerPixelLevelModuleOutput
    decoded: Decoded
    class_logits: Tensor  # (L + 1, B, Q, K + 1)
    transfer: Tensor | None
    regions: Regions | None

    def predicted(self, first: int) -> tuple[Tensor, Tensor, Tensor]:
        """Mask embeddings, mask features and class logits of the layers from `first` on, for the loss."""
        features = present(self.pixels.decoder_last_hidden_state)
        return self.decoded.mask_embeddings[first:], features, self.class_logits[first:]

    def output(self, wants: Wants, **more: Any) -> TMTOutput:
        """Everything of a call under transformers' names."""
        pixels, decoded, records = self.pixels, self.decoded, self.decoded.records
        mask_features = present(pixels.decoder_last_hidden_state)
        output = TMTOutput(
            class_queries_logits=self.class_logits[-1],
            masks_queries_logits=full_masks(decoded.mask_embeddings[-1], mask_features),
            encoder_last_hidden_state=pixels.encoder_last_hidden_state,
            pixel_decoder_last_hidden_state=mask_features,
            transformer_decoder_last_hidden_state=decoded.hidden_states[-1],
            transferability=self.transfer,
            region_labels=None if self.regions is None else self.regions.labels,
            allowed_fraction=torch.stack([record.allowed_fraction for record in records], 1),
            fallback_rate=torch.stack([record.fallback_rate for record in records], 1),
            **more,
        )
        if wants.auxiliary_logits:
            output.auxiliary_logits = [
                {"masks_queries_logits": full_masks(embeddings, mask_features), "class_queries_logits": logits}
                for embeddings, logits in zip(decoded.mask_embeddings[:-1], self.class_logits[:-1], strict=True)
            ]
        if wants.hidden_states:
            output.encoder_hidden_states = pixels.encoder_hidden_states
            output.pixel_decoder_hidden_states = pixels.decoder_hidden_states
            output.transformer_decoder_hidden_states = decoded.hidden_states  # type: ignore[assignment]  # any length
        if wants.attentions:
            output.attentions = tuple(record.self_attention for record in records)  # type: ignore[assignment]
            output.cross_attentions = tuple(record.cross_attention for record in records)
        return output


def output_of(wants: Wants, seen: list[Seen], frame: Frame | None, losses: LossOutput | None) -> TMTOutput:
    """The output of a batch, from those of its images of one size each."""
    more: dict[str, Any] = {} if losses is None else {"loss": losses.loss, "loss_dict": losses.parts}
    if frame is None:
        return seen[0].output(wants, **more)
    return frame.together([one.output(wants) for one in seen], mask_sizes=frame.sizes(4), **more)
