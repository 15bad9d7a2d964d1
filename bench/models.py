"""Whole models: ours against transformers' Mask2Former with the same weights, from images to logits or to a step."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from tmt.data import CITYSCAPES19
from tmt.model import TMTConfig, TMTForSemanticSegmentation, masks_from_labels
from tmt.model.factory import new_model
from tmt.settings import ModelConfig, TMTSettings
from tmt.settings.arguments import parse

SIZES = ("feature_size", "mask_feature_size", "hidden_dim", "encoder_feedforward_dim", "dim_feedforward")
COUNTS = ("encoder_layers", "decoder_layers", "num_attention_heads", "num_queries", "train_num_points")
SHARED = ("backbone_config", "dropout", "pre_norm", *SIZES, *COUNTS)  # fields of a configuration that both models have
BLOCK = 64  # pixels along a side of what is one class
PLAIN = TMTSettings(mask_rule="foreground", transferability=False)  # what transformers computes
SWIN = ModelConfig(drop_path=0.0)
RESNET50 = ModelConfig(backbone="resnet50")


def preset(name: str) -> ModelConfig:
    """The model of `--config NAME`, with random weights."""
    return dataclasses.replace(parse(["--config", name]).model, backbone_weights="random")


@dataclass(frozen=True)
class Batch:
    """Images and what their losses compare with."""

    pixels: Tensor  # (B, 3, H, W)
    mask_labels: list[Tensor]  # per image (n, H, W) bool
    class_labels: list[Tensor]  # per image (n,)

    @classmethod
    def draw(cls, batch: int, size: tuple[int, int]) -> "Batch":
        """Noise, and labels in blocks of a dozen classes."""
        blocks = torch.randint(0, 12, (batch, *(-(-side // BLOCK) for side in size)))
        labels = blocks.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)[:, : size[0], : size[1]]
        return cls(torch.randn(batch, 3, *size), *masks_from_labels(labels, len(CITYSCAPES19)))


def contestants(
    sizes: ModelConfig, settings: TMTSettings = PLAIN
) -> tuple[TMTForSemanticSegmentation, Mask2FormerForUniversalSegmentation]:
    """Both with the same random weights; under `PLAIN` they compute the same."""
    ours = new_model(sizes, settings, seed=0, label_set=CITYSCAPES19)
    return ours, plain_twin(ours)


def plain_twin(model: TMTForSemanticSegmentation) -> Mask2FormerForUniversalSegmentation:
    """transformers' Mask2Former with a model's weights."""
    config: TMTConfig = model.config
    theirs = Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(num_labels=config.num_labels, **{name: getattr(config, name) for name in SHARED})
    )
    theirs.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("estimator.")})
    return theirs


def training_step(model: nn.Module, batch: Batch) -> Callable[[], float]:
    """Forward, loss, backward and one step of AdamW, fused for both; returns the loss."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6, fused=True)
    masks = batch.mask_labels
    if not isinstance(model, TMTForSemanticSegmentation):
        masks = [mask.float() for mask in masks]  # its loss samples no booleans

    def step() -> float:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        loss = model(pixel_values=batch.pixels, mask_labels=masks, class_labels=batch.class_labels).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def inference(model: nn.Module, pixels: Tensor) -> Callable[[], object]:
    """The last layer's logits."""

    def run() -> object:
        model.eval()
        with torch.inference_mode():
            output = model(pixel_values=pixels)
        return output.class_queries_logits, output.masks_queries_logits

    return run
