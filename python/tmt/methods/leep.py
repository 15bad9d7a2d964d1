"""LEEP fine-tuning: the source model's class scores first become predictive of the target's classes.

Nguyen et al., LEEP: A New Measure to Evaluate Transferability of Learned Representations, ICML 2020.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from tmt.data import IGNORE
from tmt.methods.full import FullFineTuning
from tmt.methods.transfer_metric import SMALLEST, TransferMetric
from tmt.model import TMTForSemanticSegmentation
from tmt.runtime.distributed import World
from tmt.settings import MetricConfig


class LEEPFineTuning(FullFineTuning):
    """A first stage that maximises LEEP on target crops, then full fine-tuning."""

    name = "leep"
    title = "LEEP fine-tuning"

    def metric(self, config: MetricConfig, classes: int, batch_size: int) -> "LEEP":
        """LEEP; source crops have no place in its definition, the source is there as the classes of its model."""
        return LEEP(classes, config.leep_pixels, batch_size, config.leep_momentum)


class LEEP(TransferMetric):
    """Log expected empirical prediction: the mean over target pixels of log sum_z P(y | z) theta_z.

    theta: a pixel's normalised scores of the source classes z. P(y | z) = P(y, z) / P(z) comes from the joint
    distribution P(y, z), the sum of theta_z over pixels of target class y divided by the number of all pixels, kept as
    a running mean over steps and without gradient. The step's own pixels are part of it, so that no pixel's class has
    probability 0. Every process has the running mean of all processes' pixels.
    """

    name = "leep"

    def __init__(self, classes: int, pixels: int, batch_size: int, momentum: float):
        super().__init__(pixels, batch_size)
        self.momentum = momentum
        self.joint: Tensor
        self.register_buffer("joint", torch.zeros(classes, classes))

    def network(self, model: TMTForSemanticSegmentation) -> nn.Module:
        """The whole model."""
        return ClassScores(model)

    def score(self, values: Tensor, labels: Tensor, domains: Tensor, world: World) -> tuple[Tensor, Tensor]:
        """values (n, K) class scores of target pixels."""
        counted = labels != IGNORE
        theta, labels = normalise(values[counted]), labels[counted]
        number = world.sum(counted.sum().float())
        if number == 0:
            return values.sum() * 0, number.new_tensor(torch.nan)
        joint = world.sum(joint_distribution(theta.detach(), labels, len(self.joint))) / number
        self.joint.lerp_(joint, 1 - self.momentum if self.joint.any() else 1.0)
        total = log_expected_prediction(theta, labels, self.joint).sum()
        return total * (world.size / number), world.sum(total.detach()) / number


class ClassScores(nn.Module):
    """A segmentation model as a map from images to class scores of pixels."""

    def __init__(self, model: TMTForSemanticSegmentation):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K, H / 4, W / 4) float32, not normalised.

        At the masks' own size: pixels between are read from these scores, where evaluation upsamples every mask's
        logits, whose gradients would take sixteen times the memory.
        """
        outputs = self.model(pixel_values=pixel_values)
        return self.model.semantic_probabilities(outputs, outputs.masks_queries_logits.shape[-2:])


def normalise(scores: Tensor) -> Tensor:
    """Class scores (n, K), at least 0, divided by their sum."""
    return scores / scores.sum(1, keepdim=True).clamp(min=SMALLEST)


def joint_distribution(theta: Tensor, labels: Tensor, classes: int) -> Tensor:
    """theta (n, K), labels (n,) -> the sum of theta_z over pixels of class y (K, K), rows y, times n."""
    return one_hot(labels, classes).to(theta.dtype).T @ theta


def log_expected_prediction(theta: Tensor, labels: Tensor, joint: Tensor) -> Tensor:
    """log sum_z P(y | z) theta_z of each pixel (n,); theta (n, K), labels y (n,), joint (K, K) up to a factor."""
    conditional = joint / joint.sum(0).clamp(min=SMALLEST)
    return (conditional[labels] * theta).sum(1).clamp(min=SMALLEST).log()
