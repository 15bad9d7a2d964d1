"""What an estimator learns from a batch: its regions, what is wanted of each, and which count."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tmt.data import IGNORE, EvalBatch, TrainBatch
from tmt.inference.sliding_window import enlarge
from tmt.model import TMTForSemanticSegmentation
from tmt.model.estimator import ConditionalDiscriminator, discriminator_loss
from tmt.model.evidence import Evidence
from tmt.runtime.distributed import World
from tmt.settings import EstimatorConfig
from tmt.training.loop import Loss

LEAST_PIXELS = 16
"""A region with fewer labelled pixels has no share of wrong ones worth the name."""
Batch = TrainBatch | EvalBatch


class Examples(NamedTuple):
    """The R regions of each of B images."""

    found: Evidence
    wanted: Tensor  # (B, R) float, 0 source and 1 target; of the kind `error`, the share of wrong pixels
    valid: Tensor  # (B, R) bool


def examples(
    model: TMTForSemanticSegmentation, batch: Batch, settings: EstimatorConfig, device: torch.device
) -> Examples:
    """The regions that the source model `model` finds in a batch's images; those without `domains` are the target's."""
    found = model.region_evidence(batch["pixel_values"].to(device))
    labels = batch["labels"].to(device)
    if settings.kind == "error":
        return Examples(found, *region_errors(found, labels))
    count = found.features.shape[-2] * found.features.shape[-1]
    domains = batch.get("domains", torch.ones(len(labels))).to(device)
    inside = labels != IGNORE if settings.counted == "labelled" else image_area(batch).to(device)
    return Examples(found, domains[:, None].expand(-1, count), valid_regions(inside, found.labels, count))


def image_area(batch: Batch) -> Tensor:
    """bool (B, H, W): where the images are; the rest is padding."""
    height, width = batch["labels"].shape[-2:]
    extents = batch.get("extents", torch.tensor([[height, width]]).expand(len(batch["labels"]), 2))
    rows, columns = (torch.arange(side) < extents[:, i : i + 1] for i, side in enumerate((height, width)))
    return rows[:, :, None] & columns[:, None, :]


def valid_regions(inside: Tensor, regions: Tensor, count: int) -> Tensor:
    """Which regions hold a pixel that counts, so that padding does not.

    inside (B, H, W) bool; regions (B, H/8, W/8) region of each position, in [0, count). Returns bool (B, count).
    """
    area = interpolate(inside.float()[:, None], size=regions.shape[-2:], mode="area")[:, 0] > 0  # (B, H/8, W/8)
    hits = torch.zeros(len(inside), count, device=inside.device)
    return hits.scatter_add_(1, regions.flatten(1), area.flatten(1).float()) > 0


def region_errors(found: Evidence, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The share of labelled pixels that the source model gets wrong, float (B, R), and which regions have at least
    LEAST_PIXELS of them, bool (B, R); labels (B, H, W) train ids."""
    assert found.queries is not None
    size = (labels.shape[-2], labels.shape[-1])
    wrong = found.queries.scores(0, size[0], size).argmax(1) != labels
    regions, labelled = enlarge(found.labels, size).flatten(1), (labels != IGNORE).flatten(1).float()
    sums = labelled.new_zeros(len(labels), found.features.shape[-2] * found.features.shape[-1])
    count = sums.scatter_add(1, regions, labelled)  # whole numbers: the order of adding does not show
    failed = sums.scatter_add(1, regions, labelled * wrong.flatten(1))
    return failed / count.clamp(min=1), count >= LEAST_PIXELS


def estimator_loss(
    model: TMTForSemanticSegmentation,
    estimator: nn.Module,
    network: nn.Module,
    settings: EstimatorConfig,
    world: World,
    batch: TrainBatch,
) -> Loss:
    """The loss over the valid regions of all processes, times their number, for DDP's mean; `network` is the estimator
    or its DDP wrapper."""
    found, wanted, valid = examples(model, batch, settings, world.device)
    logits = network(found.features, found.probabilities).flatten(1)
    count = world.sum(valid.sum().float()).clamp(min=1)
    if isinstance(estimator, ConditionalDiscriminator):
        estimator.remember(world.sum(class_shares(found, wanted, valid)) / count)
    loss = discriminator_loss(logits, wanted, valid, count / world.size)
    return Loss(loss, _logged(settings, logits, wanted, valid, count, world))


def class_shares(found: Evidence, domains: Tensor, valid: Tensor) -> Tensor:
    """Sums over valid regions of class probabilities, (2, K): of source regions, of target regions."""
    assert found.probabilities is not None
    counted = torch.stack([valid & (domains < 0.5), valid & (domains > 0.5)]).float()  # (2, B, R)
    return torch.einsum("dbr,bkr->dk", counted, found.probabilities.flatten(2))


def _logged(
    settings: EstimatorConfig, logits: Tensor, wanted: Tensor, valid: Tensor, count: Tensor, world: World
) -> dict[str, float]:
    if settings.kind == "error":
        off = ((torch.sigmoid(logits.detach()) - wanted).abs() * valid).sum()
        return {"mean_absolute_error": round(float(world.sum(off) / count), 4)}
    right = world.sum((((logits > 0) == (wanted > 0.5)) & valid).sum().float())
    return {"accuracy": round(float(right / count), 4)}
