"""How good an estimator is on images that it has not seen, and what the user must know of it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple, TypedDict

import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from tmt.data import Dataset, EvalBatch, eval_batches
from tmt.inference.sliding_window import plan
from tmt.model import TMTForSemanticSegmentation
from tmt.model.estimator import RegionEstimator, proxy_a_distance
from tmt.settings import Config, InferenceConfig
from tmt.training.examples import examples
from tmt.training.loop import Workplace


class HoldOutValues(TypedDict, total=False):
    """What files keep of a hold-out; what does not apply to an estimator's kind is missing."""

    score: float  # the accuracy; where the best is kept, minus the loss
    loss: float
    accuracy: float
    proxy_a_distance: float
    r2: float | None  # of the expected error; None where the error does not vary
    rho: float | None  # mean over images of Spearman's correlation of expected error and error among their regions
    transferability_source_mean: float
    transferability_target_mean: float
    transferability_target_std: float


class StepHoldOut(HoldOutValues):
    """A hold-out during training."""

    step: int


@dataclass(frozen=True)
class HoldOut:
    """How well a discriminator tells the domains apart on images it has not seen."""

    accuracy: float
    """Mean over the two domains of the share of regions judged right."""
    source_mean: float
    """Mean transferability T of source regions."""
    target_mean: float
    """Mean transferability of target regions."""
    target_std: float
    """Standard deviation of the transferability of target regions."""
    loss: float = 0.0
    """Mean over the two domains of the mean cross-entropy."""

    def to_dict(self, by_loss: bool = False) -> HoldOutValues:
        """JSON values; `score` is the accuracy, or minus the loss."""
        return {
            "score": -self.loss if by_loss else self.accuracy,
            "loss": self.loss,
            "accuracy": self.accuracy,
            "proxy_a_distance": proxy_a_distance(1 - self.accuracy),
            "transferability_source_mean": self.source_mean,
            "transferability_target_mean": self.target_mean,
            "transferability_target_std": self.target_std,
        }


class Judged(NamedTuple):
    """The valid regions of an image, n of them, float64 on the CPU."""

    trained: Tensor  # (n,) logits that training sees
    logits: Tensor  # (n,) logits whose sigmoid is 1 - T
    wanted: Tensor  # (n,)


@torch.no_grad()
def hold_out(
    config: Config,
    parts: tuple[Dataset, Dataset],
    model: TMTForSemanticSegmentation,
    estimator: RegionEstimator,
    at: Workplace,
) -> HoldOutValues:
    """Judge images of source and target; raises Interrupted on all processes when any was asked to stop."""
    if config.estimator.kind == "error":
        images = _images(config, model, estimator, parts[1], 1, at)
        return expected_errors(at.world.sum(sum_up([error_sums(image) for image in images], 9)).cpu())
    sums = []
    for i, dataset in enumerate(parts):
        found = [judgement(*one[:2], i) for one in _images(config, model, estimator, dataset, i, at)]
        sums.append(at.world.sum(sum_up(found, 5)).cpu())
    source, target = (part[:-1] / part[-1].clamp(min=1) for part in sums)
    found = HoldOut(
        accuracy=float(source[0] + target[0]) / 2,
        source_mean=float(source[1]),
        target_mean=float(target[1]),
        target_std=float((target[2] - target[1] ** 2).clamp(min=0).sqrt()),
        loss=float(source[3] + target[3]) / 2,
    )
    return found.to_dict(by_loss=config.estimator.keeps_best)


def sum_up(rows: list[Tensor], width: int) -> Tensor:
    """The sum of rows (width,) float64, 0 where there are none."""
    return torch.stack(rows).sum(0) if rows else torch.zeros(width, dtype=torch.float64)


def _images(
    config: Config,
    model: TMTForSemanticSegmentation,
    estimator: RegionEstimator,
    dataset: Dataset,
    domain: int,
    at: Workplace,
) -> Iterator[Judged]:
    """This process's share of a dataset's images, as far as the settings ask for them."""
    world = at.world
    count = min(len(dataset), config.estimator.eval_images)
    share_of_rank = len(range(world.rank, count, world.size))
    for i, batch in enumerate(islice(eval_batches(dataset, world.rank, world.size, model.scaling), share_of_rank)):
        if i < count // world.size:
            world.leave_if_asked(at.stop, "while evaluating")
        windows = windows_of(batch, config.evaluation)
        found = [judge(config, model, estimator, part, domain, world.device) for part in windows]
        yield Judged(*(torch.cat(values) for values in zip(*found, strict=True)))


def judge(
    config: Config,
    model: TMTForSemanticSegmentation,
    estimator: RegionEstimator,
    batch: EvalBatch,
    domain: int,
    device: torch.device,
) -> Judged:
    """The valid regions of a batch of one image, or of a window of it, of the domain 0 source or 1 target."""
    of_domain = {**batch, "domains": torch.full((1,), float(domain))}
    found, wanted, valid = examples(model, of_domain, config.estimator, device)  # type: ignore[arg-type]
    evidence = found.features, found.probabilities
    logits = estimator(*evidence).flatten(1), estimator.judge(*evidence).flatten(1)
    return Judged(*(values[valid].double().cpu() for values in (*logits, wanted)))


def windows_of(batch: EvalBatch, evaluation: InferenceConfig) -> Iterator[EvalBatch]:
    """A batch of one image in the windows that evaluation sees it in, at its own size and not mirrored."""
    pixels, labels = batch["pixel_values"], batch["labels"]
    for one in plan((labels.shape[-2], labels.shape[-1]), replace(evaluation, scales=(1.0,), flip=False)):
        inside = (..., one.rows.slice, one.columns.slice)
        yield {**batch, "pixel_values": pixels[inside], "labels": labels[inside]}


def judgement(trained: Tensor, logits: Tensor, domain: int) -> Tensor:
    """Over regions with logits (n,) float64 of one domain, (5,): sums of right judgements, T, T squared and losses by
    the logits that were trained, and n."""
    transferability = torch.sigmoid(-logits)
    right = (trained > 0) == (domain == 1)
    loss = binary_cross_entropy_with_logits(trained, torch.full_like(trained, float(domain)), reduction="none")
    values = (right, transferability, transferability.square(), loss, torch.ones_like(logits))
    return torch.stack([value.double().sum() for value in values])


def error_sums(image: Judged) -> Tensor:
    """Over an image's regions (9,) float64: n; sums of the error, its square, the squared difference from what was
    expected, T, its square and the loss; Spearman's correlation of the two, and 1 where there is one, else 0 and 0."""
    error, transfer = image.wanted, torch.sigmoid(-image.logits)
    off = error - (1 - transfer)
    loss = binary_cross_entropy_with_logits(image.trained, error, reduction="none")
    values = (torch.ones_like(error), error, error.square(), off.square(), transfer, transfer.square(), loss)
    rho = rank_correlation(image.logits, error)
    last = (0.0, 0.0) if math.isnan(rho) else (rho, 1.0)
    return torch.tensor([*(float(value.sum()) for value in values), *last], dtype=torch.float64)


def rank_correlation(left: Tensor, right: Tensor) -> float:
    """Spearman's correlation of two (n,); nan where one of them does not vary."""
    if len(left) < 2 or (left == left[0]).all() or (right == right[0]).all():
        return math.nan
    found: Any = stats.spearmanr(left.numpy(), right.numpy())
    return float(found.statistic)


def expected_errors(sums: Tensor) -> HoldOutValues:
    """What `error_sums`, summed over images, say; `score` is minus the loss."""
    count, images = max(1.0, float(sums[0])), float(sums[8])
    error, square, off, transfer, transfer_square, loss = (float(value) / count for value in sums[1:7])
    spread = square - error**2
    return {
        "score": -loss,
        "loss": loss,
        "r2": 1 - off / spread if spread > 0 else None,
        "rho": float(sums[7]) / images if images else None,
        "transferability_target_mean": transfer,
        "transferability_target_std": math.sqrt(max(0.0, transfer_square - transfer**2)),
    }


def verdict(result: HoldOutValues, saturated: float) -> str:
    """What the user must know about the estimator."""
    mean, spread = (result.get(f"transferability_target_{name}", math.nan) for name in ("mean", "std"))
    transfer = f"T on the target {mean:.3f} +- {spread:.3f}"
    if "accuracy" not in result:
        r2, rho = (_number(result.get(name)) for name in ("r2", "rho"))
        return f"estimator: held-out R2 {r2}, rank correlation within images {rho}, {transfer}"
    accuracy, distance = result["accuracy"], result.get("proxy_a_distance", math.nan)
    text = f"estimator: held-out accuracy {accuracy:.3f}, proxy A-distance {distance:.2f}, {transfer}"
    if accuracy <= saturated:
        return text
    return (
        f"{text}\nwarning: the discriminator is saturated (accuracy above {saturated}): transferability is near 0 "
        "all over the target and says little; fewer estimator steps or a lower lr leave it more graded"
    )


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
