"""Stage `estimator`: what judges regions is trained on the frozen source model, then frozen.

A discriminator learns to tell target from source regions: paper, Eqs. 3-5 and 10; binary cross-entropy over valid
regions, source 0, target 1, on detached features, as many source as target images in each batch. The class-conditional
one learns the same given what the source model predicts. `error` learns on labelled target images how much of a region
the source model gets wrong, by the cross-entropy with that share. `entropy` has nothing to learn.
"""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypedDict, cast

from torch import nn

from tmt.data import Dataset
from tmt.data.resized import resized
from tmt.data.subset import hold_out as split
from tmt.errors import ConfigError
from tmt.model import TMTForSemanticSegmentation
from tmt.model.estimator import RegionEstimator, new_estimator
from tmt.model.factory import freeze, open_model, save_estimator
from tmt.model.groups import Group
from tmt.runtime.files import write_atomically
from tmt.runtime.seeding import derive, seed_all
from tmt.settings import ESTIMATOR_FILE, Config, RegionSettings, outcome, part_of, values_of
from tmt.training.domains import Domain, Domains
from tmt.training.examples import estimator_loss
from tmt.training.hold_out import StepHoldOut, hold_out, verdict
from tmt.training.loop import Evaluation, Phase, State, Task, Workplace, fit
from tmt.training.optimizer import adamw, groups_table
from tmt.training.schedule import Schedule, constant
from tmt.training.streams import Pairs, Stream, stream


class EstimatorResult(TypedDict, total=False):
    """What the finished stage leaves in done.json."""

    last: StepHoldOut
    best: StepHoldOut
    training_images: dict[str, int]
    kind: str  # unless it is `domain`
    kept: str  # `best` where that is the stage's outcome and not the last


@dataclass(frozen=True)
class Parts:
    """The images of the stage."""

    train: tuple[Dataset, ...]
    """Of source and target; of the kind `error`, of the target alone."""
    held: tuple[Dataset, Dataset]
    """What it is judged on, of source and target."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Of what is trained on."""
        return ("source", "target")[-len(self.train) :]


def train_estimator(config: Config, domains: Domains, source_model: Path, at: Workplace) -> EstimatorResult:
    """Train the estimator on what the model in the folder `source_model` makes of the images."""
    settings, world = config.estimator, at.world
    given = values_of(config.model, RegionSettings) | {"estimator_kind": settings.kind}
    model = open_model(source_model, lambda saved: replace(saved, transferability=False, **given), domains.label_set)
    freeze(model.to(world.device))
    estimator = random_estimator(model, at)
    if settings.kind == "entropy":
        return _without_training(config, estimator, at)
    parts = parts_of(config, domains)
    task = estimator_task(config, parts, model, estimator, at)
    world.say(_announced(config, domains, parts))
    world.say(groups_table(task.optimizer))
    state = fit(task, at)
    if world.main:
        write_atomically(outcome(at.folder.parent, "estimator"), partial(_leave, config, estimator, at.folder))
    world.say(verdict(cast(StepHoldOut, state.best if settings.keeps_best else state.last), settings.saturated))
    return _result(config, parts, state)


def _result(config: Config, parts: Parts, state: State) -> EstimatorResult:
    result: EstimatorResult = {
        "last": cast(StepHoldOut, state.last),
        "best": cast(StepHoldOut, state.best),
        "training_images": {role: len(part) for role, part in zip(parts.roles, parts.train, strict=True)},
    }
    if config.estimator.kind != "domain":
        result["kind"] = config.estimator.kind
    if config.estimator.keeps_best:
        result["kept"] = "best"
    return result


def _without_training(config: Config, estimator: RegionEstimator, at: Workplace) -> EstimatorResult:
    at.world.say(f"\nestimator: {config.estimator.kind} has nothing to train")
    if at.world.main:
        write_atomically(outcome(at.folder.parent, "estimator"), partial(_save, config, estimator))
    nothing: StepHoldOut = {"step": 0}
    return {"last": nothing, "best": nothing, "training_images": {}, "kind": config.estimator.kind}


def _announced(config: Config, domains: Domains, parts: Parts) -> str:
    settings, names = config.estimator, {"source": domains.source.name, "target": domains.target.name}
    images = " + ".join([str(settings.batch_size)] * len(parts.train))
    each = " and ".join(f"{len(part)} of {names[role]}" for role, part in zip(parts.roles, parts.train, strict=True))
    kind = "" if settings.kind == "domain" else f" ({settings.kind})"
    return f"\nestimator{kind}: {settings.steps} steps of {images} images, from {each}"


def parts_of(config: Config, domains: Domains) -> Parts:
    """What is trained on and what it is judged on: the validation splits or, where the best is kept, held-out training
    images, so that validation images choose nothing."""
    pair = (domains.source, domains.target)
    source, target = (resized(domain.val, config.data.height) for domain in pair)
    if not config.estimator.keeps_best:
        return Parts((domains.source.train, domains.target.train), (source, target))
    if config.estimator.kind == "error":
        train, held = _split(config, domains.target)
        return Parts((train,), (source, held))
    (source, held_source), (target, held_target) = (_split(config, domain) for domain in pair)
    return Parts((source, target), (held_source, held_target))


def _split(config: Config, domain: Domain) -> tuple[Dataset, Dataset]:
    if len(domain.train) < 2:
        raise ConfigError(
            f"estimator: kind {config.estimator.kind} with held-out images needs at least 2 training images of the "
            f"{domain.role}, got {len(domain.train)}; raise {domain.role}.images, or use another estimator.kind"
        )
    return split(domain.train, config.estimator.held_out, derive(config.seed, "held out", domain.role))


def _leave(config: Config, estimator: nn.Module, folder: Path, path: Path) -> None:
    """Write the stage's outcome: the last weights, or the best."""
    if config.estimator.keeps_best:
        shutil.copyfile(folder / "best" / ESTIMATOR_FILE, path)
    else:
        _save(config, estimator, path)


def _save(config: Config, estimator: nn.Module, path: Path) -> None:
    save_estimator(estimator, part_of(config.model, RegionSettings), path, config.estimator.kind)


def random_estimator(model: TMTForSemanticSegmentation, at: Workplace) -> RegionEstimator:
    """An estimator of the model's kind with random weights, a function of the run's seed."""
    seed_all(derive(at.seed, "estimator", "weights"))
    settings, channels = model.config.settings, model.config.mask_feature_size
    estimator = new_estimator(settings.estimator_kind, channels, settings, model.config.num_labels or 0)
    return estimator.to(at.world.device)


def estimator_task(
    config: Config, parts: Parts, model: TMTForSemanticSegmentation, estimator: RegionEstimator, at: Workplace
) -> Task:
    """The task of training an estimator on the regions of `model`."""
    settings, world = config.estimator, at.world
    labelled = settings.kind == "error" or settings.counted == "labelled"
    streams = [
        stream(config, world, part, settings.batch_size, f"estimator-{role}", scaling=model.scaling, labelled=labelled)
        for role, part in zip(parts.roles, parts.train, strict=True)
    ]
    network = world.wrap(estimator)
    loss = partial(estimator_loss, model, estimator, network, settings, world)
    return Task(
        name="estimator",
        module=estimator,
        optimizer=adamw(_groups(estimator, settings.lr, settings.weight_decay)),
        rate=constant,
        clip=math.inf,
        schedule=Schedule(settings.steps, settings.eval_every, settings.checkpoint_every, settings.log_every),
        phases=[Phase(settings.steps, _together(streams), loss)],
        images=len(streams) * settings.batch_size,
        evaluate=lambda: cast(Evaluation, hold_out(config, parts.held, model, estimator, at)),
        save=lambda folder: _save(config, estimator, folder / ESTIMATOR_FILE),
    )


def _together(streams: Sequence[Stream]) -> Stream | Pairs:
    return streams[0] if len(streams) == 1 else Pairs(*streams)


def _groups(module: nn.Module, lr: float, weight_decay: float) -> list[Group]:
    matrices = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in module.parameters() if parameter.ndim <= 1]
    return [
        {"name": "matrices", "params": matrices, "lr": lr, "weight_decay": weight_decay},
        {"name": "biases and norms", "params": others, "lr": lr, "weight_decay": 0.0},
    ]
