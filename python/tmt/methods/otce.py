"""OTCE fine-tuning: source pixels first come to lie where target pixels of one class are, by optimal transport.

Tan et al., OTCE: A Transferability Metric for Cross-Domain Cross-Task Representations, CVPR 2021.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from tmt.data import IGNORE
from tmt.methods.full import FullFineTuning
from tmt.methods.transfer_metric import SMALLEST, TransferMetric
from tmt.model import TMTForSemanticSegmentation
from tmt.runtime.distributed import World
from tmt.settings import MetricConfig


class OTCEFineTuning(FullFineTuning):
    """A first stage that maximises OTCE on source and target crops, then full fine-tuning."""

    name = "otce"
    title = "OTCE fine-tuning"

    def metric(self, config: MetricConfig, classes: int, batch_size: int) -> "OTCE":
        """OTCE with its task difference alone."""
        return OTCE(classes, config.otce_pixels, batch_size, config.otce_epsilon, config.otce_iterations)


class OTCE(TransferMetric):
    """-H(Y_t | Y_s), the conditional entropy of the joint distribution of labels that optimal transport gives.

    Mask features, normalised to length 1, are coupled by the entropic transport of squared Euclidean cost with uniform
    marginals; P(y_s, y_t) is the mass between pixels of class y_s and y_t. Each process couples the pixels of all, and
    sends gradients to its own. Backbone and pixel decoder train, on which mask features depend.
    """

    name = "otce"
    sees_source = True

    def __init__(self, classes: int, pixels: int, batch_size: int, epsilon: float, iterations: int):
        super().__init__(pixels, batch_size)
        self.classes, self.epsilon, self.iterations = classes, epsilon, iterations

    def network(self, model: TMTForSemanticSegmentation) -> nn.Module:
        """Backbone and pixel decoder."""
        return MaskFeatures(model.model.pixel_level_module)

    def score(self, values: Tensor, labels: Tensor, domains: Tensor, world: World) -> tuple[Tensor, Tensor]:
        """values (n, E) mask features of source and target pixels."""
        features, labels, domains = (world.gather(part) for part in (values, labels, domains))
        counted = labels != IGNORE
        source, target = (counted & (domains == domain) for domain in (0, 1))
        if not (source.any() and target.any()):
            return features.sum() * 0, features.new_tensor(torch.nan)
        features = normalize(features, dim=1)
        plan = coupling(features[source], features[target], self.epsilon, self.iterations)
        score = -conditional_entropy(joint_labels(plan, labels[source], labels[target], self.classes))
        return score, score.detach()


class MaskFeatures(nn.Module):
    """Backbone and pixel decoder as a map from images to mask features."""

    def __init__(self, pixel_level_module: nn.Module):
        super().__init__()
        self.pixel_level_module = pixel_level_module

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, E, H / 4, W / 4)."""
        return self.pixel_level_module(pixel_values).decoder_last_hidden_state


def coupling(source: Tensor, target: Tensor, epsilon: float, iterations: int) -> Tensor:
    """The entropic optimal transport plan (n, m), its entries summing to 1, differentiable.

    source (n, E) and target (m, E) of length 1, so that the squared Euclidean distance is 2 - 2 cos; log-domain
    Sinkhorn with uniform marginals, entropy weighted by `epsilon`, always `iterations` of them.
    """
    from ot.bregman import sinkhorn_log  # here, not above: takes a second, and only this method needs it

    cost = 2 - 2 * source @ target.T
    rows, columns = (cost.new_full((count,), 1 / count) for count in cost.shape)
    plan: Any = sinkhorn_log(rows, columns, cost, epsilon, numItermax=iterations, stopThr=0, warn=False)
    return plan


def joint_labels(plan: Tensor, source: Tensor, target: Tensor, classes: int) -> Tensor:
    """plan (n, m), labels (n,) and (m,) -> P(y_s, y_t) (K, K)."""
    rows, columns = (one_hot(labels, classes).to(plan.dtype) for labels in (source, target))
    return rows.T @ plan @ columns


def conditional_entropy(joint: Tensor) -> Tensor:
    """H(Y_t | Y_s) in nats, a scalar, of P(y_s, y_t) (K, K): H(Y_s, Y_t) - H(Y_s); classes may be absent."""
    return _entropy(joint) - _entropy(joint.sum(1))


def _entropy(probabilities: Tensor) -> Tensor:
    return -(probabilities * probabilities.clamp(min=SMALLEST).log()).sum()
