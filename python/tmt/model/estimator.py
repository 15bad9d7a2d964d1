"""The domain discriminator (E): from region features (B, C, h, w) to logits (B, h, w), target domain = 1."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from tmt.settings import RegionSettings


class DomainDiscriminator(nn.Module):
    """MLP with two hidden layers (LayerNorm, ReLU) that tells, region by region, target from source features."""

    def __init__(self, channels: int, settings: RegionSettings):
        super().__init__()
        hidden = settings.estimator_hidden
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
        """region_features (B, C, h, w) -> logits (B, h, w); sigmoid of a logit = probability of the target domain.

        Computed in the weights' dtype, under autocast in autocast's.
        """
        norm: Any = self.layers[1]  # quantisers leave it floating
        features = region_features.to(norm.weight.dtype)
        return self.layers(features.movedim(1, -1)).squeeze(-1)


def discriminator_loss(logits: Tensor, domains: Tensor, valid: Tensor, count: Tensor) -> Tensor:
    """Binary cross-entropy (Eq. 10) summed over the valid regions and divided by `count`, a scalar.

    Args:
        logits: (B, R), of `DomainDiscriminator`, R regions an image.
        domains: (B,) floating, 0 source, 1 target; balanced when both are as many.
        valid: (B, R) bool, regions that count.
        count: () number of valid regions, of all processes where a batch is split over several.
    """
    labels = domains[:, None].expand_as(logits)
    each = F.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
    return (each * valid).sum() / count


def proxy_a_distance(error: float) -> float:
    """2 (1 - 2 error) (Eq. 5), error on held-out images: 0 where domains look alike, 2 where told apart perfectly."""
    return 2.0 * (1.0 - 2.0 * error)
