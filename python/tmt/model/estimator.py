"""The estimators: from a region's features, and where they ask what the source model predicts there, to its T.

`EstimatorKind` in tmt.settings names them. All give logits whose sigmoid is 1 - T, so that T = 1 - sigmoid(logit).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tmt.settings import EstimatorKind, RegionSettings

from .evidence import normalised_entropy

SMALLEST_SHARE = 1e-3
"""Added to how often a class is predicted in a domain, so that one seen in a single domain has a finite ratio."""
SURE = 1e-6
"""Normalised entropies are kept this far from 0 and 1, where their logit would be infinite."""


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two hidden layers with LayerNorm and ReLU."""
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.LayerNorm(hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.LayerNorm(hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )


class RegionEstimator(nn.Module):
    """What judges regions. `probabilities` is None for the kind `domain`, which does not look at them.

    Its layers have another name in each kind, so that a model's folder holds none that fit a kind they were not made
    for.
    """

    def judge(self, region_features: Tensor, probabilities: Tensor | None = None) -> Tensor:
        """region_features (B, C, h, w), class probabilities (B, K, h, w) -> logits (B, h, w), T = 1 - sigmoid."""
        return self(region_features, probabilities)


class DomainDiscriminator(RegionEstimator):
    """E: an MLP that tells, region by region, target from source features (paper, Eqs. 3-5 and 10)."""

    def __init__(self, channels: int, settings: RegionSettings):
        super().__init__()
        self.layers = mlp(channels, settings.estimator_hidden, 1)

    def forward(self, region_features: Tensor, probabilities: Tensor | None = None) -> Tensor:
        """region_features (B, C, h, w) -> logits (B, h, w); sigmoid of a logit = probability of the target domain."""
        return _last(self.layers, region_features).squeeze(-1)


class ConditionalDiscriminator(RegionEstimator):
    """E_c: a logit a class, weighted by how probable the source model finds each in the region.

    What is learnt is how likely a region of these features *and* classes is of the target. How often a class comes in
    the two domains is taken out of the judgement: it asks whether a region's roads look like the source's roads, not
    whether the target has more road. The ratio is that of classes predicted in training, `predicted`.
    """

    def __init__(self, channels: int, settings: RegionSettings, classes: int):
        super().__init__()
        self.per_class = mlp(channels, settings.estimator_hidden, classes)
        self.predicted: Tensor
        self.register_buffer("predicted", torch.zeros(2, classes))

    def forward(self, region_features: Tensor, probabilities: Tensor) -> Tensor:
        """region_features (B, C, h, w), probabilities (B, K, h, w) -> sum_c p_c E_c(f) (B, h, w): what is trained."""
        return (_last(self.per_class, region_features) * probabilities.movedim(1, -1)).sum(-1)

    def judge(self, region_features: Tensor, probabilities: Tensor | None = None) -> Tensor:
        """As `forward`, minus sum_c p_c log(share of class c in the target / share in the source)."""
        assert probabilities is not None
        expected = (probabilities.movedim(1, -1) * self.log_ratio().to(probabilities.dtype)).sum(-1)
        return self(region_features, probabilities).float() - expected

    def log_ratio(self) -> Tensor:
        """(K,) float32: log of how often each class is predicted in the target over how often in the source."""
        shares = self.predicted.float() / self.predicted.float().sum(1, keepdim=True).clamp(min=1e-12)
        source, target = (shares + SMALLEST_SHARE).log()
        return target - source

    @torch.no_grad()
    def remember(self, shares: Tensor) -> None:
        """Add the mean probability of each class over a step's regions, (2, K): source, target."""
        self.predicted += shares


class EntropyEstimator(RegionEstimator):
    """1 - T is the entropy of the source model's mean class probabilities over a region, 1 where all K are alike.

    There is nothing to train. A region of two classes that are both certain is uncertain, too.
    """

    def forward(self, region_features: Tensor, probabilities: Tensor) -> Tensor:
        """probabilities (B, K, h, w) -> logits (B, h, w) of the normalised entropy."""
        return torch.logit(normalised_entropy(probabilities, 1), eps=SURE)


class ErrorEstimator(RegionEstimator):
    """1 - T is the share of wrong pixels that an MLP expects of the source model in a region."""

    def __init__(self, channels: int, settings: RegionSettings, classes: int):
        super().__init__()
        self.regression = mlp(channels + classes, settings.estimator_hidden, 1)

    def forward(self, region_features: Tensor, probabilities: Tensor) -> Tensor:
        """region_features (B, C, h, w), probabilities (B, K, h, w) -> logits (B, h, w) of the expected error."""
        seen = torch.cat([region_features, probabilities.to(region_features.dtype)], 1)
        return _last(self.regression, seen).squeeze(-1)


def new_estimator(kind: EstimatorKind, channels: int, settings: RegionSettings, classes: int) -> RegionEstimator:
    """An estimator with random weights; region features have `channels`, the source model K `classes`."""
    match kind:
        case "domain":
            return DomainDiscriminator(channels, settings)
        case "conditional":
            return ConditionalDiscriminator(channels, settings, classes)
        case "entropy":
            return EntropyEstimator()
        case "error":
            return ErrorEstimator(channels, settings, classes)


def _last(layers: nn.Sequential, features: Tensor) -> Tensor:
    """features (B, any, h, w) -> an MLP's output (B, h, w, outputs), computed in the weights' dtype, under autocast in
    autocast's."""
    norm: Any = layers[1]  # quantisers leave it floating
    return layers(features.to(norm.weight.dtype).movedim(1, -1))


def discriminator_loss(logits: Tensor, domains: Tensor, valid: Tensor, count: Tensor) -> Tensor:
    """Binary cross-entropy (Eq. 10) summed over the valid regions and divided by `count`, a scalar.

    Args:
        logits: (B, R), of an estimator, R regions an image.
        domains: (B,) floating, 0 source, 1 target; balanced when both are as many. Or (B, R): each region's own
            number in [0, 1], such as its share of wrong pixels, whose mean is then what minimises it.
        valid: (B, R) bool, regions that count.
        count: () number of valid regions, of all processes where a batch is split over several.
    """
    labels = domains if domains.ndim == 2 else domains[:, None].expand_as(logits)
    each = F.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
    return (each * valid).sum() / count


def proxy_a_distance(error: float) -> float:
    """2 (1 - 2 error) (Eq. 5), error on held-out images: 0 where domains look alike, 2 where told apart perfectly."""
    return 2.0 * (1.0 - 2.0 * error)
