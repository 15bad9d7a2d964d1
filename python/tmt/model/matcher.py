"""Which query answers for which ground-truth mask: the cheapest one-to-one pairs."""

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

COST_LIMIT = 1e10  # stands for a cost that is not finite: such a pair is matched last


class Matching(NamedTuple):
    """M is the largest number of matched pairs of an image, at least 1; entries beyond an image's own are 0."""

    queries: Tensor  # (B, L, M) int64, query of each pair
    targets: Tensor  # (B, L, M) int64, ground-truth mask of each pair
    valid: Tensor  # (B, M) bool


def pairwise_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """logits (B, R, P), targets (B, n, P) in [0, 1] -> mean binary cross-entropy of each pair (B, R, n).

    softplus(x) - t x is the cross-entropy of logit x against t, so that one product serves both classes.
    """
    return (F.softplus(logits).sum(-1, keepdim=True) - logits @ targets.transpose(1, 2)) / logits.shape[-1]


def pairwise_dice(logits: Tensor, targets: Tensor) -> Tensor:
    """logits (B, R, P), targets (B, n, P) -> dice loss of each pair (B, R, n)."""
    probability = logits.sigmoid()
    overlap = 2 * (probability @ targets.transpose(1, 2))
    total = probability.sum(-1, keepdim=True) + targets.sum(-1)[:, None]
    return 1 - (overlap + 1) / (total + 1)


def assign(cost: Tensor, numbers: list[int]) -> Matching:
    """cost (B, L, Q, n), `numbers` the columns that count for each image -> the cheapest one-to-one pairs."""
    costs = torch.nan_to_num(cost, nan=COST_LIMIT, posinf=COST_LIMIT, neginf=COST_LIMIT).cpu().numpy()
    batch, layers, queries, _ = costs.shape
    pairs = [min(number, queries) for number in numbers]
    indices = np.zeros((2, batch, layers, max([1, *pairs])), dtype=np.int64)
    for i, number in enumerate(numbers):
        for layer in range(layers):
            indices[:, i, layer, : pairs[i]] = linear_sum_assignment(costs[i, layer, :, :number])
    found = torch.from_numpy(indices).to(cost.device)
    valid = torch.arange(found.shape[-1])[None] < torch.tensor(pairs)[:, None]
    return Matching(found[0], found[1], valid.to(cost.device))
