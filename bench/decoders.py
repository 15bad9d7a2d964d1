"""End to end: the decoder of our model against transformers' with the same weights, from features to logits or loss."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss, Mask2FormerTransformerModule

from tmt.model.configuration import TMTConfig
from tmt.model.criterion import TMTLoss
from tmt.model.decoder import TransformerModule, mask_logits

from . import inputs

CHANNELS, CLASSES, MASKS = 256, 19, 12
CROP = (512, 1024)


@dataclass(frozen=True)
class Features:
    """What backbone and pixel decoder give for a crop, and what the loss compares with."""

    maps: tuple[Tensor, ...]  # (B, C, H_l, W_l) at strides 32, 16, 8
    mask_features: Tensor  # (B, C, H / 4, W / 4)
    transferability: Tensor  # (B, H / 8, W / 8)
    mask_labels: list[Tensor]  # per image (n, H, W) float32
    class_labels: list[Tensor]  # per image (n,)

    @classmethod
    def draw(cls, batch: int, crop: tuple[int, int] = CROP) -> "Features":
        """Random maps that change slowly, so that masks are connected regions as a trained model predicts them."""
        sizes = [(crop[0] // stride, crop[1] // stride) for stride in (32, 16, 8, 4)]
        maps = [_features(batch, *size) for size in sizes]
        transferability = inputs.smooth(batch, 1, *sizes[2]).clamp(0, 1)
        labels = torch.randint(0, MASKS, (batch, 1, 4, 8)).float()
        labels = nn.functional.interpolate(labels, crop)[:, 0]
        masks = [(image == torch.arange(MASKS)[:, None, None]).float() for image in labels]
        return cls(tuple(maps[:3]), maps[3], transferability, masks, [torch.arange(MASKS)] * batch)


def _features(batch: int, height: int, width: int) -> Tensor:
    """A map (B, C, H_l, W_l) around 0 with some noise."""
    return 4 * inputs.smooth(batch, CHANNELS, height, width) - 2 + 0.1 * torch.randn(batch, CHANNELS, height, width)


class Ours(nn.Module):
    """Our decoder, class predictor and loss."""

    def __init__(self, config: TMTConfig):
        super().__init__()
        self.module = TransformerModule(CHANNELS, config)
        self.predictor = nn.Linear(CHANNELS, CLASSES + 1)
        self.criterion = TMTLoss(config)
        self.transferability = config.transferability

    def decode(self, x: Features):
        return self.module(x.maps, x.mask_features, x.transferability if self.transferability else None)

    def forward(self, x: Features) -> tuple[Tensor, Tensor]:
        """Class logits (B, Q, K + 1) and mask logits (B, Q, H / 4 * W / 4) of the last layer."""
        decoded = self.decode(x)
        masks = mask_logits(decoded.mask_embeddings[-1], x.mask_features.flatten(2))
        return self.predictor(decoded.queries[-1]), masks

    def loss(self, x: Features) -> Tensor:
        decoded = self.decode(x)
        classes = self.predictor(decoded.queries)
        losses = self.criterion(decoded.mask_embeddings, x.mask_features, classes, x.mask_labels, x.class_labels)
        return losses.loss


class Theirs(nn.Module):
    """transformers' decoder and loss around the same weights."""

    def __init__(self, ours: Ours, config: TMTConfig):
        super().__init__()
        self.module = Mask2FormerTransformerModule(CHANNELS, config)
        self.module.load_state_dict(ours.module.state_dict())
        self.predictor = ours.predictor
        self.criterion = Mask2FormerLoss(config, {})
        self.weights = ours.criterion.weights

    def decode(self, x: Features) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Class logits (B, Q, K + 1) and mask logits (B, Q, H / 4, W / 4) of every layer."""
        decoded = self.module(list(x.maps), x.mask_features)
        queries = decoded.intermediate_hidden_states
        return [self.predictor(one.transpose(0, 1)) for one in queries], decoded.masks_queries_logits

    def forward(self, x: Features) -> tuple[Tensor, Tensor]:
        classes, masks = self.decode(x)
        return classes[-1], masks[-1].flatten(2)

    def loss(self, x: Features) -> Tensor:
        classes, masks = self.decode(x)
        auxiliary = [
            {"masks_queries_logits": mask, "class_queries_logits": logits}
            for mask, logits in zip(masks[:-1], classes[:-1], strict=True)
        ]
        parts = self.criterion(masks[-1], classes[-1], x.mask_labels, x.class_labels, auxiliary)
        weighted = [self.weights[kind] * part for name, part in parts.items() for kind in self.weights if kind in name]
        return torch.stack(weighted).sum()


def contestants(transferability: bool = False) -> tuple[Ours, Theirs]:
    """Both with random weights that are the same; without T and with rule `foreground` they compute the same.

    With `transferability` ours is TMT as the paper has it, theirs plain Mask2Former: other results, same work around.
    """
    rule = "uncertain" if transferability else "foreground"
    config = TMTConfig(mask_rule=rule, transferability=transferability, num_labels=CLASSES, dropout=0.0)
    ours = Ours(config)
    for embedding in (ours.module.queries_features, ours.module.queries_embedder, ours.module.level_embed):
        nn.init.normal_(embedding.weight)
    return ours, Theirs(ours, config)


def training_step(model: Ours | Theirs) -> Callable[[Features], object]:
    """Forward, loss and gradients of all weights and of the features."""
    parameters = list(model.parameters())

    def step(x: Features) -> object:
        features = [one.detach().requires_grad_() for one in (*x.maps, x.mask_features)]
        loss = model.loss(Features(tuple(features[:3]), features[3], x.transferability, x.mask_labels, x.class_labels))
        return torch.autograd.grad(loss, parameters + features, allow_unused=True)

    return step
