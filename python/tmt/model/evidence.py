"""What estimators judge a region by: its features and, where the kind asks, what the source model predicts there.

Those predictions are of a frozen copy of the source model: its own plain pass, without T, under the mask rule that it
was saved with. T is then a fixed function of the image, the same in training, in inference and after loading. It costs
the copy's weights and one more pass of it, without gradient, an image.
"""

import math
from copy import deepcopy
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tmt.runtime.precision import full

from .acte import Regions, pooled_to
from .configuration import TMTConfig
from .decoder import TransformerModule
from .semantic import Queries, full_masks

SMALLEST = 1e-12  # stands for a sum of scores that is 0


class Evidence(NamedTuple):
    """An image's h x w regions and what is known of each."""

    features: Tensor  # (B, C, h, w) float32
    labels: Tensor  # (B, H, W) int64, region y * w + x of each position
    probabilities: Tensor | None  # (B, K, h, w) float32, mean class probabilities; None: nobody asked
    queries: Queries | None  # the predictions that they come from


class SourcePredictor(nn.Module):
    """A frozen copy of the source model's decoder and class predictor."""

    def __init__(self, config: TMTConfig):
        super().__init__()
        plain = deepcopy(config)
        settings = config.settings
        plain.settings = replace(
            settings,
            mask_rule=settings.source_mask_rule,
            mask_threshold=settings.source_mask_threshold,
            fallback=settings.source_fallback,
        )
        self.transformer_module = TransformerModule(config.feature_size, plain)
        self.class_predictor = nn.Linear(config.hidden_dim, (config.num_labels or 0) + 1)

    def copy_of(self, transformer_module: nn.Module, class_predictor: nn.Module) -> None:
        """Take over the weights of the model that this one is to be a copy of."""
        self.transformer_module.load_state_dict(transformer_module.state_dict())
        self.class_predictor.load_state_dict(class_predictor.state_dict())


def queries_of(transformer: nn.Module, classes: nn.Module, maps: tuple[Tensor, ...], mask_features: Tensor) -> Queries:
    """What a model predicts without T from its pixel decoder's maps and mask_features (B, E, H4, W4)."""
    decoded = transformer(maps, mask_features, None)
    masks = full_masks(decoded.mask_embeddings[-1], mask_features)
    return Queries.of(full(classes(decoded.queries[-1])), masks)


def evidence(regions: Regions, queries: Queries | None) -> Evidence:
    """Regions, and the mean class probabilities of each, from scores formed at the masks' own size."""
    if queries is None:
        return Evidence(*regions, None, None)
    height, width = queries.masks.shape[-2:]
    probabilities = normalised(queries.scores(0, height, (height, width)))
    means = region_means(pooled_to(probabilities, regions.labels), regions)
    return Evidence(*regions, means, queries)


def normalised(scores: Tensor) -> Tensor:
    """Class scores (B, K, ...), at least 0, divided by their sum over classes."""
    return scores / scores.sum(1, keepdim=True).clamp(min=SMALLEST)


def normalised_entropy(shares: Tensor, dim: int) -> Tensor:
    """The entropy of shares that add up to 1 along `dim`, as a part of that of equal ones: in [0, 1]."""
    return torch.special.entr(shares).sum(dim) / math.log(max(2, shares.shape[dim]))


def region_means(planes: Tensor, regions: Regions) -> Tensor:
    """planes (B, K, H, W) at the regions' positions -> their mean over each region (B, K, h, w), 0 where it is empty.

    Summed in float64, so that the order in which a GPU adds does not show.
    """
    size = (regions.features.shape[-2], regions.features.shape[-1])
    labels = regions.labels.flatten(1)[:, None].expand(-1, planes.shape[1], -1)  # (B, K, H * W)
    sums = torch.zeros(*planes.shape[:2], size[0] * size[1], dtype=torch.float64, device=planes.device)
    counts = sums[:, :1].scatter_add(2, labels[:, :1], torch.ones_like(labels[:, :1], dtype=torch.float64))
    sums = sums.scatter_add(2, labels, planes.flatten(2).double())
    return (sums / counts.clamp(min=1)).float().unflatten(2, size)
