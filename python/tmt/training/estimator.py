"""Stage `estimator`: the domain discriminator learns to tell target from source regions, then is frozen.

Paper, Eqs. 3-5 and 10; binary cross-entropy over valid regions, source 0, target 1, on detached features of the frozen
source model, as many source as target images in each batch.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tmt.data import IGNORE, Dataset, eval_batches
from tmt.inference.evaluation import asked_to_stop
from tmt.inference.sliding_window import plan
from tmt.methods.method import region_options
from tmt.model import TMTForSemanticSegmentation
from tmt.model.estimator import DomainDiscriminator, discriminator_loss, proxy_a_distance
from tmt.model.factory import freeze, open_model, save_estimator
from tmt.runtime.distributed import World
from tmt.runtime.files import write_atomically
from tmt.runtime.seeding import derive, seed_all
from tmt.settings import ESTIMATOR_FILE, InferenceConfig, outcome
from tmt.training.loop import Batch, Fit, Pace, Task, adamw
from tmt.training.run import Run
from tmt.training.segmentation import batches_of, groups_table, pairs


def train_estimator(run: Run) -> None:
    """Train the discriminator and report how well it tells the domains apart."""
    config = run.config.estimator
    regions = region_options(run.config.model)
    model = open_model(run.source_model, {"transferability": False, **regions}, run.label_set)
    freeze(model.to(run.world.device))
    folder = run.stage_folder("estimator")
    task = estimator_task(run, model, new_discriminator(run, model))
    run.world.say(
        f"\nestimator: {config.steps} steps of {config.batch_size} + {config.batch_size} images, from "
        f"{len(run.source.train)} of {run.source.name} and {len(run.target.train)} of {run.target.name}"
    )
    run.world.say(groups_table(task))
    state = Fit(task, folder, run.world, run.stop, run.config.seed).run()
    if run.world.main:
        write_atomically(outcome(run.folder, "estimator"), partial(save_estimator, task.module, regions))
    run.world.say(verdict(state.last, config.saturated))
    images = {"source": len(run.source.train), "target": len(run.target.train)}
    run.finish("estimator", {"last": state.last, "best": state.best, "training_images": images})


def new_discriminator(run: Run, model: TMTForSemanticSegmentation) -> DomainDiscriminator:
    """A discriminator with random weights, a function of the run's seed."""
    seed_all(derive(run.config.seed, "estimator", "weights"))
    return DomainDiscriminator(model.config.mask_feature_size, model.config.estimator_hidden).to(run.world.device)


def estimator_task(run: Run, model: TMTForSemanticSegmentation, discriminator: DomainDiscriminator) -> Task:
    """The task of training the discriminator on the features of `model`."""
    config, world = run.config.estimator, run.world
    source = batches_of(run, run.source.train, config.batch_size, config.steps, "estimator-source")
    target = batches_of(run, run.target.train, config.batch_size, config.steps, "estimator-target")
    network = world.wrap(discriminator)

    def evaluate() -> dict[str, object] | None:
        result = hold_out(run, model, discriminator)
        return result and result.to_dict()

    return Task(
        name="estimator",
        module=discriminator,
        optimizer=adamw(_groups(discriminator, config.lr, config.weight_decay)),
        rate=lambda step: 1.0,
        clip=math.inf,
        pace=Pace(config.steps, config.eval_every, config.checkpoint_every, config.log_every, 2 * config.batch_size),
        batches=lambda step: pairs(source(step), target(step)),
        loss=lambda batch: domain_loss(model, network, world, batch),
        evaluate=evaluate,
        save=lambda folder: save_estimator(discriminator, region_options(run.config.model), folder / ESTIMATOR_FILE),
    )


def _groups(module: nn.Module, lr: float, weight_decay: float) -> list[dict[str, object]]:
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
    model: TMTForSemanticSegmentation, network: nn.Module, batch: Batch, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The discriminator's logits (B, h*w) for a batch's regions, and which regions are valid, bool (B, h*w)."""
    features, regions = model.region_features(batch["pixel_values"].to(device))
    logits = network(features).flatten(1)
    return logits, valid_regions(batch["labels"].to(device), regions, logits.shape[1])


def domain_loss(
    model: TMTForSemanticSegmentation, network: nn.Module, world: World, batch: Batch
) -> tuple[Tensor, dict[str, float]]:
    """The discriminator's loss over the valid regions of all processes, times their number, for DDP's mean."""
    logits, valid = judge(model, network, batch, world.device)
    domains = batch["domains"].to(world.device)
    count = world.sum(valid.sum().float()).clamp(min=1)
    right = world.sum((((logits > 0) == (domains[:, None] > 0.5)) & valid).sum().float())
    loss = discriminator_loss(logits, domains, valid, count / world.size)
    return loss, {"accuracy": round(float(right / count), 4)}


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

    def to_dict(self) -> dict[str, object]:
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
def hold_out(run: Run, model: TMTForSemanticSegmentation, discriminator: DomainDiscriminator) -> HoldOut | None:
    """Judge validation images of both domains; None when asked to stop half-way."""
    sums = [_sum_up(run, model, discriminator, domain.val, i) for i, domain in enumerate((run.source, run.target))]
    if any(part is None for part in sums):
        return None
    source, target = (part[:-1] / part[-1].clamp(min=1) for part in sums)
    return HoldOut(
        accuracy=float(source[0] + target[0]) / 2,
        source_mean=float(source[1]),
        target_mean=float(target[1]),
        target_std=float((target[2] - target[1] ** 2).clamp(min=0).sqrt()),
    )


def _sum_up(
    run: Run, model: TMTForSemanticSegmentation, discriminator: nn.Module, dataset: Dataset, domain: int
) -> Tensor | None:
    """Over valid regions, (4,) float64: sums of right judgements, T and T squared, and the number of regions."""
    world = run.world
    count = min(len(dataset), run.config.estimator.eval_images)
    share_of_rank = len(range(world.rank, count, world.size))
    sums = torch.zeros(4, dtype=torch.float64)
    for i, batch in enumerate(islice(eval_batches(dataset, world.rank, world.size), share_of_rank)):
        if i < count // world.size and asked_to_stop(world, run.stop.asked()):
            return None
        for part in windows_of(batch, run.config.evaluation):
            logits, valid = judge(model, discriminator, part, world.device)
            sums += judgement(logits[valid].double().cpu(), domain)
    return world.sum(sums).cpu()


def windows_of(batch: Batch, evaluation: InferenceConfig) -> Iterator[Batch]:
    """A batch of one image in the windows that evaluation sees it in, at its own size and not mirrored."""
    pixels, labels = batch["pixel_values"], batch["labels"]
    for one in plan(tuple(labels.shape[-2:]), replace(evaluation, scales=(1.0,), flip=False)):
        inside = (..., one.rows.slice, one.columns.slice)
        yield {**batch, "pixel_values": pixels[inside], "labels": labels[inside]}


def judgement(logits: Tensor, domain: int) -> Tensor:
    """Over regions with logits (n,) float64 of one domain, (4,): sums of right judgements, T and T squared, and n."""
    transferability = torch.sigmoid(-logits)
    right = (logits > 0) == (domain == 1)
    values = (right, transferability, transferability.square(), torch.ones_like(logits))
    return torch.stack([value.double().sum() for value in values])


def verdict(result: dict[str, object], saturated: float) -> str:
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
