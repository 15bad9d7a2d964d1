"""Room: domain discriminator (E). In: region features (B, C, h, w). Out: logits (B, h, w), target domain = 1."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DomainDiscriminator(nn.Module):
    """MLP with two hidden layers (LayerNorm, ReLU) that tells, region by region, target from source features."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, region_features: Tensor) -> Tensor:
        """region_features (B, C, h, w) -> logits (B, h, w); sigmoid of a logit = probability of the target domain."""
        return self.layers(region_features.movedim(1, -1)).squeeze(-1)


def discriminator_loss(
    source_logits: Tensor,
    target_logits: Tensor,
    source_valid: Tensor | None = None,
    target_valid: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy, source 0 and target 1, averaged over the valid regions of both domains.

    Args:
        source_logits, target_logits: (B, h, w); the batch is balanced when both hold as many images.
        source_valid, target_valid: (B, h, w) bool, regions that count; None: all.
    """
    logits, labels = _labelled(source_logits, target_logits, source_valid, target_valid)
    return F.binary_cross_entropy_with_logits(logits, labels)


@torch.no_grad()
def discriminator_accuracy(
    source_logits: Tensor,
    target_logits: Tensor,
    source_valid: Tensor | None = None,
    target_valid: Tensor | None = None,
) -> Tensor:
    """Share of valid regions whose domain is told right, a scalar; arguments as `discriminator_loss`."""
    logits, labels = _labelled(source_logits, target_logits, source_valid, target_valid)
    return ((logits > 0) == (labels > 0.5)).float().mean()


def proxy_a_distance(error: float) -> float:
    """2 (1 - 2 error), error the discriminator's on held-out images: 0 domains alike, 2 told apart perfectly."""
    return 2.0 * (1.0 - 2.0 * error)


def _labelled(
    source_logits: Tensor, target_logits: Tensor, source_valid: Tensor | None, target_valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Logits and labels (R,) of the valid regions, float32."""
    source = source_logits.flatten() if source_valid is None else source_logits[source_valid]
    target = target_logits.flatten() if target_valid is None else target_logits[target_valid]
    logits = torch.cat([source, target]).float()
    labels = torch.cat([torch.zeros_like(source), torch.ones_like(target)]).float()
    return logits, labels
