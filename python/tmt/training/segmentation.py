"""Training a segmentation model by a method: what the source stage and all target stages share."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypedDict, cast

from torch import nn

from tmt.data import IGNORE, TrainBatch
from tmt.inference.evaluation import EvaluationValues, evaluate
from tmt.methods import Method, TransferMetric
from tmt.model import TMTForSemanticSegmentation, TMTOutput, masks_from_labels, present
from tmt.model.card import Trained
from tmt.runtime.distributed import World
from tmt.runtime.files import replace_folder
from tmt.runtime.precision import autocast
from tmt.runtime.provenance import revision
from tmt.settings import FitConfig, InferenceConfig, outcome
from tmt.training.domains import Domain
from tmt.training.loop import Loss, Phase, State, Task, Workplace, fit
from tmt.training.optimizer import adamw, groups_table
from tmt.training.schedule import Schedule, poly

LossOf = Callable[[TrainBatch], Loss]


class StepScores(EvaluationValues):
    """An evaluation during training."""

    step: int


class SegmentationResult(TypedDict, total=False):
    """What a finished stage leaves in done.json."""

    method: str  # its name in tables
    training_images: int
    mask_rule: str
    settings: dict[str, Any]  # TMTSettings
    steps: int
    batch_size: int
    domain: str
    last: StepScores
    best: StepScores
    target: dict[str, Any]  # of the source model: its scores on the target domain
    source_images: int  # of joint training: labelled source images beside those of the target
    metric: dict[str, Any]  # of the methods that begin with a transferability metric


def segmentation_task(
    method: Method,
    model: TMTForSemanticSegmentation,
    domain: Domain,
    phases: Sequence[Phase],
    settings: FitConfig,
    inference: InferenceConfig,
    at: Workplace,
    companion: nn.Module | None = None,
) -> Task:
    """The task of training a model, whose trainable part the method has chosen, through phases."""
    rates = (settings.lr, settings.weight_decay, settings.backbone_lr_factor, settings.backbone_layer_decay)
    return Task(
        name=method.name,
        module=model,
        optimizer=adamw(model.parameter_groups(*rates)),
        rate=poly(settings.steps, settings.power, settings.warmup),
        clip=settings.clip,
        schedule=schedule_of(settings),
        phases=phases,
        images=settings.batch_size,
        evaluate=lambda: score(method.name, model, domain, inference, at),
        save=model.save_pretrained,
        companion=companion,
    )


def training_of(method: Method, task: Task, domain: Domain, at: Workplace, last: StepScores) -> Trained:
    """What a model's card says of its training."""
    return {
        "method": method.title + domain.share,
        "data": domain.name,
        "images": len(domain.train),
        "steps": task.schedule.steps,
        "batch_size": task.images,
        "seed": at.seed,
        "revision": revision(),
        "score": {
            "miou": last["miou"],
            "images": last["images"],
            "iou": dict(zip(last["classes"], last["iou"], strict=True)),
        },
    }


def train_task(method: Method, task: Task, domain: Domain, at: Workplace) -> State:
    """Train, and leave the last weights as the stage's model."""
    at.world.say(f"\n{task.name}: {len(domain.train)} training images of {domain.name}, {task.schedule.steps} steps")
    at.world.say(groups_table(task.optimizer))
    state = fit(task, at)
    if at.world.main:
        model = cast(TMTForSemanticSegmentation, task.module)
        model.config.trained = dict(training_of(method, task, domain, at, cast(StepScores, state.last)))
        replace_folder(outcome(at.folder.parent, task.name), task.save)
    return state


def schedule_of(settings: FitConfig) -> Schedule:
    """The numbers of steps of a stage."""
    return Schedule(settings.steps, settings.eval_every, settings.checkpoint_every, settings.log_every)


def prepare(method: Method, model: TMTForSemanticSegmentation, at: Workplace, recompute: bool = False) -> nn.Module:
    """Put the model into the mode it trains in, with gradient checkpointing if layers are to be computed again;
    returns what losses call, DDP's wrapper with several processes."""
    model.to(at.world.device)
    model.config.trained = None  # what it starts from was; its own is known in the end
    if recompute:
        checkpoint_layers(model)
    method.choose_trainable(model)
    method.set_mode(model)
    return at.world.wrap(model)


def checkpoint_layers(model: TMTForSemanticSegmentation) -> None:
    """Turn on gradient checkpointing, under the name that it has in this version of transformers 5."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()


def segmentation_loss(network: nn.Module, world: World, amp: bool, classes: int) -> LossOf:
    """The loss of a batch, and its parts to be logged; `network` is the model of K `classes` or its DDP wrapper."""

    def loss_of(batch: TrainBatch) -> Loss:
        labels = batch["labels"].to(world.device)
        mask_labels, class_labels = masks_from_labels(labels, classes)
        with autocast(world.device, amp):
            outputs = network(
                pixel_values=batch["pixel_values"].to(world.device),
                mask_labels=mask_labels,
                class_labels=class_labels,
                sample_seeds=batch["sample_seeds"],
                labelled=labels != IGNORE,
            )
        return Loss(outputs.loss, logged_parts(outputs))

    return loss_of


def logged_parts(outputs: TMTOutput) -> dict[str, Any]:
    """This process's parts of the loss in the last layer, and how each layer's attention behaved, for the record."""
    names, losses = ("loss_cross_entropy", "loss_mask", "loss_dice"), outputs.loss_dict or {}
    parts = {name: round(losses[name].item(), 4) for name in names}
    attention = {
        "allowed_fraction": present(outputs.allowed_fraction), "fallback_rate": present(outputs.fallback_rate)
    }  # fmt: skip
    return {**parts, **{name: [round(v, 4) for v in value.mean(0).tolist()] for name, value in attention.items()}}


def metric_loss(metric: TransferMetric, model: TMTForSemanticSegmentation, world: World, amp: bool) -> LossOf:
    """The negative metric of a batch, and the metric under its name to be logged."""
    network = world.wrap(metric.network(model))

    def loss_of(batch: TrainBatch) -> Loss:
        with autocast(world.device, amp):
            planes = network(batch["pixel_values"].to(world.device))
        score, value = metric(planes, batch, world)
        return Loss(-score, {metric.name: round(value, 4) if math.isfinite(value) else None})

    return loss_of


def score(
    name: str, model: TMTForSemanticSegmentation, domain: Domain, inference: InferenceConfig, at: Workplace
) -> EvaluationValues:
    """Evaluate a model on a domain's validation split and say its scores; raises Interrupted."""
    at.world.share_buffers(model)
    result = evaluate(model, domain.val, at.world, inference, at.stop)
    at.world.say(f"{name}: on {domain.name} val: {result.headline()}")
    return result.to_dict()


def result_of(
    method: Method, model: TMTForSemanticSegmentation, domain: Domain, settings: FitConfig, state: State
) -> SegmentationResult:
    """What done.json says of every segmentation stage."""
    return {
        "method": method.title + domain.share,
        "training_images": len(domain.train),
        "mask_rule": model.config.settings.mask_rule,
        "settings": asdict(model.config.settings),
        "steps": settings.steps,
        "batch_size": settings.batch_size,
        "domain": domain.name,
        "last": cast(StepScores, state.last),
        "best": cast(StepScores, state.best),
    }
