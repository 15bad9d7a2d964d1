"""Regions (ACTE): from mask features (B, C, H4, W4) to region features and each position's region.

ACTE is the Adaptive Cluster-based Transferability Estimator of the paper; its discriminator is in estimator.py.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

import tmt_ext
from tmt.runtime.precision import full, without_autocast
from tmt.settings import RegionSettings


class Regions(NamedTuple):
    """An image cut into h x w regions."""

    features: Tensor  # (B, C, h, w) float32, mean feature of each region
    labels: Tensor  # (B, H, W) int64 at the stride, region y * w + x of each position


@dataclass(frozen=True)
class ACTE:
    """Mask features to regions: superpixels (Eqs. 6-9) or, as an ablation, fixed cells of the same size."""

    settings: RegionSettings
    stride: int = 8
    """Image pixels from one position to the next: 8, or 4, the mask features' own, where cells are half as wide."""

    def __call__(self, mask_features: Tensor) -> Regions:
        """mask_features (B, C, H4, W4) at stride 4, any floating dtype -> Regions, in float32 under autocast too.

        Superpixels are found in bfloat16 where `superpixel_dtype` says so, on CUDA under autocast.
        """
        in_half = self.finds_in_bfloat16(mask_features.device.type)
        with without_autocast(mask_features):
            chi = full(mask_features) if self.stride == 4 else stride8(full(mask_features))
            cell = self.settings.cell
            if self.settings.regions == "grid":
                return grid_regions(chi, cell)
            iterations, kappa = self.settings.superpixel_iterations, self.settings.kappa
            chi = chi.bfloat16() if in_half else chi
            found = tmt_ext.superpixel(chi, cell, iterations=iterations, kappa=kappa)
        return Regions(full(found.region_features), found.labels)

    def finds_in_bfloat16(self, device: str) -> bool:
        """Whether superpixels of features on a type of device are found in bfloat16."""
        return self.settings.superpixel_dtype == "bfloat16" and device == "cuda" and torch.is_autocast_enabled(device)


def stride8(mask_features: Tensor) -> Tensor:
    """chi: (B, C, H4, W4) at stride 4 -> (B, C, ceil(H4 / 2), ceil(W4 / 2)), means over 2 x 2 positions that exist."""
    return F.avg_pool2d(mask_features, 2, ceil_mode=True, count_include_pad=False)


def pooled_to(planes: Tensor, labels: Tensor) -> Tensor:
    """planes (B, K, H4, W4) at stride 4 -> at the positions (B, H, W) of regions' labels, at stride 4 or 8."""
    return planes if planes.shape[-2:] == labels.shape[-2:] else stride8(planes)


def grid_regions(chi: Tensor, cell: int) -> Regions:
    """chi (B, C, H, W) -> fixed cells of cell x cell positions, cut off at the border."""
    batch, _, height, width = chi.shape
    features = F.avg_pool2d(chi, cell, ceil_mode=True, count_include_pad=False)
    rows = torch.arange(height, device=chi.device) // cell
    columns = torch.arange(width, device=chi.device) // cell
    labels = rows[:, None] * features.shape[-1] + columns
    return Regions(features, labels.expand(batch, height, width))


def transferability_map(domain_logits: Tensor, labels: Tensor) -> Tensor:
    """T(x, y) = 1 - E(f(r*)), r* the region of the position.

    Args:
        domain_logits: (B, h, w), the discriminator's logits, sigmoid = probability of the target domain.
        labels: (B, H, W) int64, region of each position.

    Returns:
        (B, H, W) float32 in [0, 1], high where the position looks like the source domain.
    """
    region_transferability = torch.sigmoid(-full(domain_logits)).flatten(1)  # 1 - sigmoid(x), without cancellation
    return region_transferability.gather(1, labels.flatten(1)).view(labels.shape)
