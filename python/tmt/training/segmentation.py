"""Training one segmentation model: the source stage, and every method on the target."""

import math
from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from tmt.data import Dataset, RareClasses, train_batches
from tmt.inference.evaluation import evaluate
from tmt.methods import Method, TransferMetric, metric_steps
from tmt.model import TMTForSemanticSegmentation, TMTOutput, masks_from_labels
from tmt.model.factory import load_estimator, new_model, open_base, open_model
from tmt.runtime.distributed import World
from tmt.runtime.files import replace_folder
from tmt.runtime.markdown import markdown_table
from tmt.runtime.precision import autocast
from tmt.runtime.seeding import derive
from tmt.runtime.signals import Interrupted
from tmt.settings import FitConfig, outcome
from tmt.training.loop import Batch, Fit, Pace, State, Task, adamw, describe_groups, poly
from tmt.training.run import Domain, Run, augmentation

LossOf = Callable[[Batch], tuple[Tensor, dict[str, object]]]
"""The loss of a batch (its mean over processes is the global loss) and what else to log."""


def train_source(run: Run, method: Method) -> None:
    """Stage `source`: a plain model on the source domain, in the end evaluated on the target too."""
    config, options = run.config, method.model_options(run.config.model)
    seed = derive(config.seed, "weights")
    if config.model.base is None:
        model = new_model(config.model, options, seed, run.label_set)
    else:
        model = open_base(config.model.base, options, run.label_set, seed)
    state = _train(run, method, model, run.source, config.source, None)
    last = _score(run, model, run.target)
    same = state.best["step"] == state.last["step"]
    best = last if same else _score(run, _best_model(run, method), run.target)
    on_target = {"domain": run.target.name, "last": last, "best": {"step": state.best["step"], **best}}
    run.finish(method.name, {**_result(run, method, run.source, config.source, state), "target": on_target})


def fine_tune(run: Run, method: Method) -> None:
    """A target stage: the source model, trained on by one method on the target domain."""
    model = open_model(run.source_model, method.model_options(run.config.model), run.label_set)
    if method.needs_estimator:
        for difference in load_estimator(model, run.estimator_weights):
            run.world.say(f"warning: {run.estimator_weights}: trained on other regions: model.{difference}")
    fit = run.config.target
    metric = method.metric(run.config.metric, len(run.label_set), fit.batch_size)
    state = _train(run, method, model, run.target, fit, metric)
    result = _result(run, method, run.target, fit, state)
    if metric is not None:
        result["metric"] = metric.report(_first_stage(run, fit), fit.batch_size)
    run.finish(method.name, result)


def _train(
    run: Run,
    method: Method,
    model: TMTForSemanticSegmentation,
    domain: Domain,
    fit: FitConfig,
    metric: TransferMetric | None,
) -> State:
    model.to(run.world.device)
    folder = run.stage_folder(method.name)
    task = segmentation_task(run, method, model, domain, fit, metric)
    run.world.say(f"\n{method.name}: {len(domain.train)} training images of {domain.name}, {fit.steps} steps")
    if metric is not None:
        run.world.say(f"the first {_first_stage(run, fit)} of them maximise {metric.name.upper()}")
    run.world.say(groups_table(task))
    state = Fit(task, folder, run.world, run.stop, run.config.seed).run()
    if run.world.main:
        replace_folder(outcome(run.folder, method.name), task.save)
    return state


def segmentation_task(
    run: Run,
    method: Method,
    model: TMTForSemanticSegmentation,
    domain: Domain,
    fit: FitConfig,
    metric: TransferMetric | None = None,
) -> Task:
    """The task of training `model` on a domain by a method, first on its `metric` where there is one."""
    world, stop = run.world, run.stop
    method.choose_trainable(model)
    method.set_mode(model)
    batches = batches_of(run, domain.train, fit.batch_size, fit.steps, domain.role, run.rare(domain))
    loss = segmentation_loss(world.wrap(model), world, fit.amp, len(run.label_set))
    if metric is not None:
        batches = staged_batches(run, metric, batches, fit)
        loss = staged_loss(metric_loss(metric.to(world.device), model, world, fit.amp), loss)

    def evaluate_model() -> dict[str, object] | None:
        world.share_buffers(model)
        result = evaluate(model, domain.val, world, run.config.evaluation, stop.asked)
        if result is not None:
            world.say(f"{method.name}: on {domain.name} val: {result.headline()}")
        return result and result.to_dict()

    return Task(
        name=method.name,
        module=model,
        optimizer=adamw(model.parameter_groups(fit.lr, fit.weight_decay, fit.backbone_lr_factor)),
        rate=poly(fit.steps, fit.power, fit.warmup),
        clip=fit.clip,
        pace=Pace(fit.steps, fit.eval_every, fit.checkpoint_every, fit.log_every, fit.batch_size),
        batches=batches,
        loss=loss,
        evaluate=evaluate_model,
        save=model.save_pretrained,
        memory=metric,
        restart=0 if metric is None else _first_stage(run, fit),
    )


def _first_stage(run: Run, fit: FitConfig) -> int:
    """Steps that a method with a metric begins with."""
    return metric_steps(run.config.metric.fraction, fit.steps)


def groups_table(task: Task) -> str:
    """The optimiser's groups as a table."""
    return markdown_table(("group", "tensors", "parameters", "lr", "weight decay"), describe_groups(task.optimizer))


def batches_of(
    run: Run, dataset: Dataset, batch_size: int, steps: int, stream: str, rare: RareClasses | None = None
) -> Callable[[int], Iterator[Batch]]:
    """This process's share of the training batches, from any step on. All methods on the target see the same ones."""
    config, world = run.config, run.world
    seed = derive(config.seed, "data", stream)

    def from_step(step: int) -> Iterator[Batch]:
        return train_batches(
            dataset, augmentation(config.augment), batch_size, seed, step, steps, world.rank, world.size,
            config.data.workers, rare,
        )  # fmt: skip

    return from_step


def pairs(source: Iterator[Batch], target: Iterator[Batch]) -> Iterator[Batch]:
    """Source and target batches joined: every tensor (b, ...) as (2b, ...), and each image's domain (2b,), 0 source."""
    for first, second in zip(source, target, strict=True):
        joined = {name: torch.cat([first[name], second[name]]) for name in first if name != "names"}
        domains = torch.arange(2).repeat_interleave(len(first["labels"])).float()
        yield {**joined, "domains": domains, "names": [*first["names"], *second["names"]]}


def staged_batches(
    run: Run, metric: TransferMetric, target: Callable[[int], Iterator[Batch]], fit: FitConfig
) -> Callable[[int], Iterator[Batch]]:
    """The target's batches, those of the first stage marked `metric` and with as many source images where it asks."""
    steps = _first_stage(run, fit)
    rare = run.rare(run.source) if metric.sees_source else None
    source = batches_of(run, run.source.train, fit.batch_size, steps, "metric-source", rare)

    def from_step(step: int) -> Iterator[Batch]:
        batches = target(step)
        if step < steps:
            first = islice(batches, steps - step)
            crops = pairs(source(step), first) if metric.sees_source else first
            yield from ({**batch, "metric": True} for batch in crops)
        yield from batches

    return from_step


def staged_loss(first: LossOf, second: LossOf) -> LossOf:
    """The first stage's loss for batches marked `metric`, the second one's for the others."""
    return lambda batch: first(batch) if batch.get("metric") else second(batch)


def metric_loss(metric: TransferMetric, model: nn.Module, world: World, amp: bool) -> LossOf:
    """The negative metric of a batch, and the metric under its name to be logged."""
    network = world.wrap(metric.network(model))

    def loss_of(batch: Batch) -> tuple[Tensor, dict[str, object]]:
        with autocast(world.device, amp):
            planes = network(batch["pixel_values"].to(world.device))
        score, value = metric(planes, batch, world)
        return -score, {metric.name: round(value, 4) if math.isfinite(value) else None}

    return loss_of


def segmentation_loss(network: nn.Module, world: World, amp: bool, classes: int) -> LossOf:
    """The loss of a batch, and its parts to be logged; `network` is the model of K `classes` or its DDP wrapper."""

    def loss_of(batch: Batch) -> tuple[Tensor, dict[str, object]]:
        mask_labels, class_labels = masks_from_labels(batch["labels"].to(world.device), classes)
        with autocast(world.device, amp):
            outputs = network(
                pixel_values=batch["pixel_values"].to(world.device),
                mask_labels=mask_labels,
                class_labels=class_labels,
                sample_seeds=batch["sample_seeds"],
            )
        return outputs.loss, logged_parts(outputs)

    return loss_of


def logged_parts(outputs: TMTOutput) -> dict[str, object]:
    """This process's parts of the loss in the last layer, and how each layer's attention behaved, for the record."""
    names = ("loss_cross_entropy", "loss_mask", "loss_dice")
    parts = {name: round(outputs.loss_dict[name].item(), 4) for name in names}
    attention = {"allowed_fraction": outputs.allowed_fraction, "fallback_rate": outputs.fallback_rate}
    return {**parts, **{name: [round(v, 4) for v in value.tolist()] for name, value in attention.items()}}


def _result(run: Run, method: Method, domain: Domain, fit: FitConfig, state: State) -> dict[str, object]:
    return {
        "method": method.title + domain.share,
        "training_images": len(domain.train),
        "mask_rule": method.mask_rule(run.config.model),
        "settings": method.model_options(run.config.model),
        "steps": fit.steps,
        "batch_size": fit.batch_size,
        "domain": domain.name,
        "last": state.last,
        "best": state.best,
    }


def _score(run: Run, model: nn.Module, domain: Domain) -> dict[str, object]:
    result = evaluate(model, domain.val, run.world, run.config.evaluation, run.stop.asked)
    if result is None:
        raise Interrupted(run.stop.signum or 15, "while evaluating the source model on the target")
    run.world.say(f"on {domain.name} val: {result.headline()}")
    return result.to_dict()


def _best_model(run: Run, method: Method) -> TMTForSemanticSegmentation:
    """The stage's best weights."""
    return open_model(run.stage_folder(method.name) / "best", {}).to(run.world.device)
