"""Stage `estimator`: the domain discriminator learns to tell target from source regions, then is frozen.

Paper, Eqs. 3-5 and 10; binary cross-entropy over valid regions, source 0, target 1, on detached features of the frozen
source model, as many source as target images in each batch.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypedDict, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tmt.data import IGNORE, Dataset, EvalBatch, TrainBatch, eval_batches
from tmt.inference.sliding_window import plan
from tmt.model import TMTForSemanticSegmentation
from tmt.model.estimator import DomainDiscriminator, discriminator_loss, proxy_a_distance
from tmt.model.factory import freeze, open_model, save_estimator
from tmt.model.groups import Group
from tmt.runtime.distributed import World
from tmt.runtime.files import write_atomically
from tmt.runtime.seeding import derive, seed_all
from tmt.settings import (
    ESTIMATOR_FILE,
    Config,
    InferenceConfig,
    RegionSettings,
    outcome,
    part_of,
    values_of,
)
from tmt.training.domains import Domains
from tmt.training.loop import Evaluation, Loss, Phase, Task, Workplace, fit
from tmt.training.optimizer import adamw, groups_table
from tmt.training.schedule import Schedule, constant
from tmt.training.streams import Pairs, stream


class HoldOutValues(TypedDict):
    """What files keep of a `HoldOut`."""

    score: float  # the accuracy
    accuracy: float
    proxy_a_distance: float
    transferability_source_mean: float
    transferability_target_mean: float
    transferability_target_std: float


class StepHoldOut(HoldOutValues):
    """A hold-out during training."""

    step: int


class EstimatorResult(TypedDict):
    """What the finished stage leaves in done.json."""

    last: StepHoldOut
    best: StepHoldOut
    training_images: dict[str, int]


def train_estimator(config: Config, domains: Domains, source_model: Path, at: Workplace) -> EstimatorResult:
    """Train the discriminator on the features of the model in the folder `source_model`."""
    settings, world = config.estimator, at.world
    regions = values_of(config.model, RegionSettings)
    model = open_model(source_model, lambda saved: replace(saved, transferability=False, **regions), domains.label_set)
    freeze(model.to(world.device))
    task = estimator_task(config, domains, model, new_discriminator(model, at), at)
    images = {"source": len(domains.source.train), "target": len(domains.target.train)}
    world.say(
        f"\nestimator: {settings.steps} steps of {settings.batch_size} + {settings.batch_size} images, from "
        f"{images['source']} of {domains.source.name} and {images['target']} of {domains.target.name}"
    )
    world.say(groups_table(task.optimizer))
    state = fit(task, at)
    if world.main:
        write_atomically(outcome(at.folder.parent, "estimator"), partial(_save, config, task.module))
    last, best = cast(StepHoldOut, state.last), cast(StepHoldOut, state.best)
    world.say(verdict(last, settings.saturated))
    return {"last": last, "best": best, "training_images": images}


def _save(config: Config, discriminator: nn.Module, path: Path) -> None:
    save_estimator(discriminator, part_of(config.model, RegionSettings), path)


def new_discriminator(model: TMTForSemanticSegmentation, at: Workplace) -> DomainDiscriminator:
    """A discriminator with random weights, a function of the run's seed."""
    seed_all(derive(at.seed, "estimator", "weights"))
    return DomainDiscriminator(model.config.mask_feature_size, model.config.settings).to(at.world.device)


def estimator_task(
    config: Config,
    domains: Domains,
    model: TMTForSemanticSegmentation,
    discriminator: DomainDiscriminator,
    at: Workplace,
) -> Task:
    """The task of training the discriminator on the features of `model`."""
    settings, world = config.estimator, at.world
    source, target = (
        stream(config, world, domain.train, settings.batch_size, f"estimator-{domain.role}", scaling=model.scaling)
        for domain in (domains.source, domains.target)
    )
    network = world.wrap(discriminator)
    phase = Phase(settings.steps, Pairs(source, target), lambda batch: domain_loss(model, network, world, batch))
    return Task(
        name="estimator",
        module=discriminator,
        optimizer=adamw(_groups(discriminator, settings.lr, settings.weight_decay)),
        rate=constant,
        clip=math.inf,
        schedule=Schedule(settings.steps, settings.eval_every, settings.checkpoint_every, settings.log_every),
        phases=[phase],
        images=2 * settings.batch_size,
        evaluate=lambda: cast(Evaluation, hold_out(config, domains, model, discriminator, at).to_dict()),
        save=lambda folder: _save(config, discriminator, folder / ESTIMATOR_FILE),
    )


def _groups(module: nn.Module, lr: float, weight_decay: float) -> list[Group]:
    matrices = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in module.parameters() if parameter.ndim <= 1]
    return [
        {"name": "matrices", "params": matrices, "lr": lr, "weight_decay": weight_decay},
        {"name": "biases and norms", "params": others, "lr": lr, "weight_decay": 0.0},
    ]


def valid_regions(labels: Tensor, regions: Tensor, count: int) -> Tensor:
    """Which regions hold a labelled pixel, so that padding does not count.

    labels (B, H, W) train ids; regions (B, H/8, W/8) region of each position, in [0, count). Returns bool (B, count).
    """
    labelled = (labels != IGNORE).float()[:, None]
    inside = interpolate(labelled, size=regions.shape[-2:], mode="area")[:, 0] > 0  # (B, H/8, W/8)
    hits = torch.zeros(len(labels), count, device=labels.device)
    return hits.scatter_add_(1, regions.flatten(1), inside.flatten(1).float()) > 0


def judge(
    model: TMTForSemanticSegmentation, network: nn.Module, batch: EvalBatch, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The discriminator's logits (B, h*w) for a batch's regions, and which regions are valid, bool (B, h*w)."""
    features, regions = model.region_features(batch["pixel_values"].to(device))
    logits = network(features).flatten(1)
    return logits, valid_regions(batch["labels"].to(device), regions, logits.shape[1])


def domain_loss(model: TMTForSemanticSegmentation, network: nn.Module, world: World, batch: TrainBatch) -> Loss:
    """The discriminator's loss over the valid regions of all processes, times their number, for DDP's mean."""
    logits, valid = judge(model, network, batch, world.device)
    domains = batch.get("domains", torch.ones(len(logits))).to(world.device)
    count = world.sum(valid.sum().float()).clamp(min=1)
    right = world.sum((((logits > 0) == (domains[:, None] > 0.5)) & valid).sum().float())
    loss = discriminator_loss(logits, domains, valid, count / world.size)
    return Loss(loss, {"accuracy": round(float(right / count), 4)})


@dataclass(frozen=True)
class HoldOut:
    """How well the discriminator tells the domains apart on images it has not seen."""

    accuracy: float
    """Mean over the two domains of the share of regions judged right."""
    source_mean: float
    """Mean transferability T = 1 - E of source regions."""
    target_mean: float
    """Mean transferability of target regions."""
    target_std: float
    """Standard deviation of the transferability of target regions."""

    def to_dict(self) -> HoldOutValues:
        """JSON values; `score` is the accuracy."""
        return {
            "score": self.accuracy,
            "accuracy": self.accuracy,
            "proxy_a_distance": proxy_a_distance(1 - self.accuracy),
            "transferability_source_mean": self.source_mean,
            "transferability_target_mean": self.target_mean,
            "transferability_target_std": self.target_std,
        }


@torch.no_grad()
def hold_out(
    config: Config,
    domains: Domains,
    model: TMTForSemanticSegmentation,
    discriminator: DomainDiscriminator,
    at: Workplace,
) -> HoldOut:
    """Judge validation images of both domains; raises Interrupted on all processes when any was asked to stop."""
    sums = [
        _sum_up(config, model, discriminator, domain.val, i, at)
        for i, domain in enumerate((domains.source, domains.target))
    ]
    source, target = (part[:-1] / part[-1].clamp(min=1) for part in sums)
    return HoldOut(
        accuracy=float(source[0] + target[0]) / 2,
        source_mean=float(source[1]),
        target_mean=float(target[1]),
        target_std=float((target[2] - target[1] ** 2).clamp(min=0).sqrt()),
    )


def _sum_up(
    config: Config,
    model: TMTForSemanticSegmentation,
    discriminator: nn.Module,
    dataset: Dataset,
    domain: int,
    at: Workplace,
) -> Tensor:
    """Over valid regions, (4,) float64: sums of right judgements, T and T squared, and the number of regions."""
    world = at.world
    count = min(len(dataset), config.estimator.eval_images)
    share_of_rank = len(range(world.rank, count, world.size))
    sums = torch.zeros(4, dtype=torch.float64)
    for i, batch in enumerate(islice(eval_batches(dataset, world.rank, world.size, model.scaling), share_of_rank)):
        if i < count // world.size:
            world.leave_if_asked(at.stop, "while evaluating")
        for part in windows_of(batch, config.evaluation):
            logits, valid = judge(model, discriminator, part, world.device)
            sums += judgement(logits[valid].double().cpu(), domain)
    return world.sum(sums).cpu()


def windows_of(batch: EvalBatch, evaluation: InferenceConfig) -> Iterator[EvalBatch]:
    """A batch of one image in the windows that evaluation sees it in, at its own size and not mirrored."""
    pixels, labels = batch["pixel_values"], batch["labels"]
    for one in plan((labels.shape[-2], labels.shape[-1]), replace(evaluation, scales=(1.0,), flip=False)):
        inside = (..., one.rows.slice, one.columns.slice)
        yield {**batch, "pixel_values": pixels[inside], "labels": labels[inside]}


def judgement(logits: Tensor, domain: int) -> Tensor:
    """Over regions with logits (n,) float64 of one domain, (4,): sums of right judgements, T and T squared, and n."""
    transferability = torch.sigmoid(-logits)
    right = (logits > 0) == (domain == 1)
    values = (right, transferability, transferability.square(), torch.ones_like(logits))
    return torch.stack([value.double().sum() for value in values])


def verdict(result: HoldOutValues, saturated: float) -> str:
    """What the user must know about the estimator."""
    text = (
        f"estimator: held-out accuracy {result['accuracy']:.3f}, proxy A-distance {result['proxy_a_distance']:.2f}, "
        f"T on the target {result['transferability_target_mean']:.3f} +- {result['transferability_target_std']:.3f}"
    )
    if result["accuracy"] <= saturated:
        return text
    return (
        f"{text}\nwarning: the discriminator is saturated (accuracy above {saturated}): transferability is near 0 "
        "all over the target and says little; fewer estimator steps or a lower lr leave it more graded"
    )
