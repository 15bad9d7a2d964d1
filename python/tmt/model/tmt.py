"""The whole model: from images to class logits and masks per query, T, and the loss where labels are given.

image -> pixel.py (features) -> acte.py (regions) -> estimator.py (T) -> decoder.py with tma.py -> criterion.py
"""

import copy
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPreTrainedModel,
)

from tmt.data.transforms import Scaling
from tmt.runtime.precision import full, without_autocast

from .acte import ACTE, Regions, transferability_map
from .card import save_card
from .configuration import TMTConfig
from .criterion import Judged, LossOutput, TMTLoss, check_labels, check_values, random_seeds
from .decoder import TransformerModule
from .estimator import ConditionalDiscriminator, new_estimator
from .evidence import Evidence, SourcePredictor, evidence, queries_of
from .groups import Group, parameter_groups
from .hub import push
from .inputs import bound_to_size, check_no_trace, check_pixels, check_transferability
from .output import Seen, TMTOutput, Wants, output_of, present
from .padding import Frame, frame_of
from .pixel import PixelLevelModule
from .processor import save_processor
from .registered import call_registered
from .semantic import semantic_scores, without_padding


class Segmenter(nn.Module):
    """The two modules of Mask2Former under the names its checkpoints have."""

    def __init__(self, config: TMTConfig):
        super().__init__()
        self.pixel_level_module = PixelLevelModule(config)
        self.transformer_module = TransformerModule(config.feature_size, config)


class TMTForSemanticSegmentation(Mask2FormerPreTrainedModel):
    """Mask2Former whose queries attend where the mask rule and the transferability condition allow.

    Its state dict is Mask2FormerForUniversalSegmentation's with `estimator.*` added, `source_features.*` with
    `transfer_features="source"`, and `source_predictor.*` with an estimator that judges predictions. The estimator is
    built frozen: segmentation losses never reach it; to train it, call `model.estimator.requires_grad_(True)` and feed
    it `region_features`.
    """

    config: TMTConfig
    config_class = TMTConfig
    supports_gradient_checkpointing = True
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
        settings = config.settings
        self.estimator = new_estimator(
            settings.estimator_kind, config.mask_feature_size, settings, config.num_labels or 0
        )
        self.source_features = PixelLevelModule(config) if settings.transfer_features == "source" else None
        copied = settings.transferability and settings.judges_predictions
        self.source_predictor = SourcePredictor(config) if copied else None
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
            pixel_values: (B, C, H, W), normalised as `scaling` says, of the weights' dtype.
            mask_labels: per image (n_i, H, W), bool, or in [0, 1]; class_labels: per image (n_i,) int64.
            pixel_mask: (B, H, W), 1 for the image, 0 for padding below and right of it, as transformers' processors
                make it; None: no padding. Padding is seen by nothing and in no loss: images of one size go through the
                network together, and each gives what it gives alone (but for batch norms in training mode).
            sample_seeds: (B,) int64, seeds of the loss's random points; None: from torch's generator.
            transferability: (B, h, w) in [0, 1], used instead of the computed T; of padded images at stride 8.
            labelled: (B, H, W) bool, the pixels that have a label, the only ones that the loss looks at; None: all,
                those of no mask being background, as in transformers. Not used with `ignore_unlabelled=False`.
            output_hidden_states: as in transformers.
            output_auxiliary_logits: as in transformers.
            output_attentions: as in transformers.
            return_dict: as in transformers.

        Raises:
            ValueError: pixels of another kind; transferability or labels that do not fit the batch; a pixel_mask that
                does not, or that is no rectangle at the top left; labels or a pixel_mask in a trace.
        """
        check_pixels(pixel_values, self.channels, self.dtype)
        check_transferability(transferability, pixel_values.shape[0])
        frame = frame_of(pixel_mask, pixel_values)
        wants = Wants.of(self.config, output_hidden_states, output_auxiliary_logits, output_attentions)
        if frame is None:
            seen = [self._see(bound_to_size(pixel_values), transferability, wants)]
        else:
            given = frame.cut_transferability(transferability)
            seen = [self._see(*part, wants) for part in zip(frame.cut(pixel_values), given, strict=True)]
        losses = None
        if mask_labels is not None and class_labels is not None:
            losses = self._loss(seen, frame, mask_labels, class_labels, sample_seeds, labelled)
        output = output_of(wants, seen, frame, losses)
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    def _see(self, pixel_values: Tensor, transferability: Tensor | None, wants: "Wants") -> "Seen":
        """pixel_values (B, 3, H, W), T to be used instead of the computed one -> what the network makes of them."""
        pixels = self.model.pixel_level_module(pixel_values, output_hidden_states=wants.hidden_states)
        mask_features = present(pixels.decoder_last_hidden_state)
        transfer, regions = self._transferability(pixel_values, mask_features, transferability)
        decoded = self.model.transformer_module(
            pixels.decoder_hidden_states, mask_features, transfer, record=wants.attentions
        )
        return Seen(pixels, decoded, full(self.class_predictor(decoded.queries)), transfer, regions)

    def _loss(
        self, seen: list["Seen"], frame: Frame | None, mask_labels, class_labels, sample_seeds, labelled
    ) -> LossOutput:
        """The loss of a batch, arguments as `forward`; of a padded one, of what lies in its images alone."""
        check_no_trace()
        first = 0 if self.config.use_auxiliary_loss else -1
        predicted = [one.predicted(first) for one in seen]
        if frame is None:
            return self.criterion(*predicted[0], mask_labels, class_labels, sample_seeds, labelled)
        if labelled is not None and labelled.shape == frame.real.shape:
            labelled = labelled & frame.real.to(labelled.device)
        check_labels(mask_labels, class_labels, len(frame.real), labelled)
        masks = frame.cut_masks(mask_labels)
        check_values(masks)
        known = [None] * len(seen) if labelled is None else frame.cut(labelled)
        seeds = random_seeds(len(masks)) if sample_seeds is None else sample_seeds
        groups = []
        for part, of_part, ground in zip(frame.parts, predicted, known, strict=True):
            of_masks, of_classes = ([labels[i] for i in part.images] for labels in (masks, class_labels))
            groups.append(Judged(*of_part, of_masks, of_classes, frame.pick(seeds, part), ground))
        return self.criterion.together(groups)

    @torch.no_grad()
    def _transferability(
        self, pixel_values: Tensor, mask_features: Tensor, given: Tensor | None
    ) -> tuple[Tensor | None, Regions | None]:
        """pixel_values (B, 3, H, W), mask_features (B, E, H4, W4) -> T (B, H8, W8) and the regions it was judged on."""
        if given is not None:
            return given, None
        config: Any = self.config  # its fields one by one: torch.compile cannot follow the making of `settings`
        if not config.transferability or not (self.training or config.transfer_at_inference):
            return None, None
        if config.estimator_kind != "domain":
            found = self.region_evidence(pixel_values)
            logits = self.estimator.judge(found.features, found.probabilities)
            return transferability_map(logits, found.labels), Regions(found.features, found.labels)
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

    @torch.no_grad()
    def region_evidence(self, pixel_values: Tensor) -> Evidence:
        """pixel_values (B, 3, H, W) -> what the estimator judges: `region_features` and, where its kind asks, the
        source model's predictions. A model without a copy of the source model is taken for it."""
        if not self.config.settings.judges_predictions:
            return evidence(self.region_features(pixel_values), None)
        module = self.model.pixel_level_module if self.source_features is None else self.source_features
        predictor = self.source_predictor
        transformer = self.model.transformer_module if predictor is None else predictor.transformer_module
        classes = self.class_predictor if predictor is None else predictor.class_predictor
        with without_autocast(pixel_values):
            pixels = module(pixel_values)
            mask_features = pixels.decoder_last_hidden_state
            queries = queries_of(transformer, classes, pixels.decoder_hidden_states, mask_features)
            return evidence(self.acte(mask_features), queries)

    def semantic_probabilities(self, outputs: TMTOutput, size: tuple[int, int]) -> Tensor:
        """Class scores of each pixel: sum over queries of class probability times mask probability.

        Args:
            outputs: of `forward`.
            size: (H, W) to which mask logits are upsampled, bilinearly and in one step; probabilities come after. Of
                padded images, that of each image without its padding.

        Returns:
            (B, K, H, W) float32; not normalised, the largest class is the prediction.
        """
        classes, masks = present(outputs.class_queries_logits), present(outputs.masks_queries_logits)
        if outputs.mask_sizes is None:
            return semantic_scores(classes, masks, (size[0], size[1]))
        each = zip(classes, without_padding(masks, outputs.mask_sizes), strict=True)
        return torch.cat([semantic_scores(one[None], mask[None], (size[0], size[1])) for one, mask in each])

    def freeze_unused(self) -> None:
        """Freeze what no segmentation loss reaches, so that plain DDP finds a gradient for every trainable weight."""
        self.estimator.requires_grad_(False)
        self.model.pixel_level_module.freeze_unused()
        for copied in (self.source_features, self.source_predictor):
            if copied is not None:
                copied.requires_grad_(False).eval()

    @property
    def scaling(self) -> Scaling:
        """How images are scaled for the backbone: `tmt.normalise(image, model.scaling)`."""
        return self.config.scaling

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As transformers', which makes every loaded weight trainable; those that are frozen stay so here.

        What classes weigh is as the configuration says, though a checkpoint holds what they weighed in its training.
        """
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.freeze_unused()
        model.criterion.reset()
        return loaded

    def freeze_source_features(self) -> None:
        """Keep the present backbone and pixel decoder, and what predicts where the estimator judges predictions, as
        the source model that T is judged on; saved with the model."""
        self.config.settings = replace(self.config.settings, transfer_features="source")
        self.source_features = copy.deepcopy(self.model.pixel_level_module)
        if self.source_predictor is not None:
            self.source_predictor.copy_of(self.model.transformer_module, self.class_predictor)
        self.freeze_unused()

    def train(self, mode: bool = True) -> "TMTForSemanticSegmentation":
        """As nn.Module's; the frozen copy of the source model stays in evaluation mode."""
        super().train(mode)
        for copied in (self.source_features, self.source_predictor):
            if copied is not None:
                copied.eval()
        return self

    def parameter_groups(
        self, lr: float, weight_decay: float, backbone_multiplier: float, layer_decay: float = 1.0
    ) -> list[Group]:
        """Optimiser groups of the trainable parameters, see `groups.parameter_groups`."""
        return parameter_groups(self, lr, weight_decay, backbone_multiplier, layer_decay)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As transformers', with an image processor beside the model, which its pipeline asks for, and a model card."""
        super().save_pretrained(save_directory, *args, **kwargs)
        save_processor(save_directory, self.scaling, self.config.image_height)
        save_card(save_directory, self.config)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Upload model, image processor and model card to a model hub; `tmt.load(repo_id)` loads them.

        Args:
            repo_id: such as `me/streets-by-night`; made where it is missing.
            kwargs: `private` and `token`; what `huggingface_hub.upload_folder` takes: `commit_message`, `revision`,
                `create_pr`, ...

        Returns:
            The address of the commit.

        Raises:
            huggingface_hub.errors.HfHubHTTPError: the hub refuses; OSError: it cannot be reached.
        """
        return push(self, repo_id, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, TMTLoss):
            module.reset()
        elif isinstance(module, ConditionalDiscriminator):
            module.predicted.zero_()
        else:
            super()._init_weights(module)
