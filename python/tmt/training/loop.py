"""The training loop. A stage describes what it trains as a `Task`; everything else is the same for all stages."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tmt.data import TrainBatch
from tmt.runtime.distributed import World
from tmt.runtime.files import remove_leftovers, replace_folder
from tmt.runtime.seeding import derive, seed_all
from tmt.runtime.signals import Interrupted, Stop
from tmt.training import checkpoint
from tmt.training.finite import check_trained, diverged, explain_overflow
from tmt.training.log import StageLog
from tmt.training.schedule import Schedule
from tmt.training.trackers import Tracking


class Loss(NamedTuple):
    """The loss of a batch."""

    value: Tensor  # (), with gradient; its mean over processes is the global loss
    logged: dict[str, Any]  # what else to log, JSON values


@dataclass(frozen=True)
class Phase:
    """Steps in a row that minimise one loss; where one begins, the optimiser forgets the moments of another loss."""

    steps: int
    batches: Callable[[int, int], Iterator[TrainBatch]]
    """The batches from one step to before another, counted from the beginning of the stage."""
    loss: Callable[[TrainBatch], Loss]


class Evaluation(TypedDict):
    """The result of an evaluation, JSON values; each kind of task adds to it."""

    score: float  # selects the best


class Evaluated(Evaluation):
    """An evaluation, and the step it belongs to."""

    step: int


@dataclass(frozen=True)
class Task:
    """What a stage trains."""

    name: str
    module: nn.Module
    """The weights that are trained and saved."""
    optimizer: Optimizer
    rate: Callable[[int], float]
    """Factor on every group's learning rate at a step."""
    clip: float
    """Largest norm of the whole gradient."""
    schedule: Schedule
    phases: Sequence[Phase]
    """One after another; their steps add up to the schedule's."""
    images: int
    """Images per step over all processes, for the rate shown."""
    evaluate: Callable[[], Evaluation]
    """Evaluates the module, the same result on all processes; raises Interrupted when asked to stop half-way."""
    save: Callable[[Path], None]
    """Fills a folder with the module in the form that others load."""
    companion: nn.Module | None = None
    """What else a resumed stage needs: a module whose state is saved beside the weights, such as a running mean of the
    loss's own, or a teacher network; an nn.ModuleDict of several."""


@dataclass
class State:
    """Where a stage stands. Together with weights and optimiser it determines everything that follows."""

    step: int = 0
    """Steps done."""
    evaluated: int = 0
    """The last step whose weights were evaluated."""
    last: Evaluated = field(default_factory=lambda: cast(Evaluated, {}))
    """The last evaluation."""
    best: Evaluated = field(default_factory=lambda: cast(Evaluated, {}))
    """The evaluation of the highest score."""


class Step(NamedTuple):
    """What one optimiser step measured."""

    loss: float  # mean over processes
    grad_norm: float  # before clipping
    logged: dict[str, Any]
    lr: float  # of the first group
    stop: bool  # whether any process was asked to stop

    def values(self) -> dict[str, Any]:
        """What is logged, in the order of metrics.jsonl."""
        return {"loss": self.loss, "grad_norm": self.grad_norm, **self.logged, "lr": self.lr}


@dataclass(frozen=True)
class Workplace:
    """Where a stage works."""

    folder: Path
    """The stage's own."""
    world: World
    stop: Stop
    seed: int
    tracking: Tracking = Tracking()

    @property
    def checkpoint(self) -> Path:
        """The file that the stage resumes from."""
        return self.folder / "checkpoint.pt"


def fit(task: Task, at: Workplace) -> State:
    """Train to the last step, from the checkpoint if there is one.

    Raises TrainingError when the loss or the gradient is not finite, and Interrupted, with everything saved, when
    asked to stop.
    """
    state = restore(task, at)
    with StageLog(task.name, at.folder, task.schedule, state.step, at.world.main, at.tracking) as log:
        try:
            evaluate_if_due(task, at, state, log)
            for phase, last in phases_from(task, state.step):
                for batch in phase.batches(state.step, last):
                    step = take_step(task, phase, at, batch, state.step)
                    state.step += 1
                    log.step(state.step, task.images, step.values())
                    if step.stop:
                        raise at.stop.interruption("after a step")
                    evaluate_if_due(task, at, state, log)
                    if state.step % task.schedule.checkpoint_every == 0 or state.evaluated == state.step:
                        save(task, at, state)
        except Interrupted as stop:
            save(task, at, state)
            raise Interrupted(stop.signum, f"after step {state.step} of {task.name}") from None
    return state


def phases_from(task: Task, step: int) -> Iterator[tuple[Phase, int]]:
    """The phases that are not over after `step` steps, each with the step it ends before."""
    first = 0
    for phase in task.phases:
        last = first + phase.steps
        if step < last:
            if step <= first:
                task.optimizer.state.clear()
            yield phase, last
        first = last


def take_step(task: Task, phase: Phase, at: Workplace, batch: TrainBatch, step: int) -> Step:
    """One optimiser step. Its randomness depends on seed, stage, step and process alone."""
    seed_all(derive(at.seed, task.name, step, at.world.rank))
    for group in task.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * task.rate(step)
    task.optimizer.zero_grad(set_to_none=True)
    with explain_overflow(task.name, task.module, step, _images(batch), _kept(at)):
        loss = phase.loss(batch)
        mean, stop = _agree(loss.value, at)
        _check_finite("loss", mean, task, at, batch, step)
        loss.value.backward()
        norm = float(nn.utils.clip_grad_norm_([p for p in task.module.parameters() if p.requires_grad], task.clip))
        _check_finite("gradient norm", norm, task, at, batch, step)
        task.optimizer.step()
    return Step(mean, norm, loss.logged, task.optimizer.param_groups[0]["lr"], stop)


def _agree(loss: Tensor, at: Workplace) -> tuple[float, bool]:
    """The global loss, and whether any process was asked to stop."""
    asked = torch.full((1,), float(at.stop.asked()), device=loss.device)
    both = at.world.sum(torch.cat([loss.detach().reshape(1).float(), asked])).tolist()
    return both[0] / at.world.size, both[1] > 0


def _check_finite(what: str, value: float, task: Task, at: Workplace, batch: TrainBatch, step: int) -> None:
    if not math.isfinite(value):
        said = f"{what} must be finite, got {value}"
        raise diverged(task.name, task.module, step, said, _images(batch), _kept(at))


def _images(batch: TrainBatch) -> str:
    return f"images {', '.join(batch['names'])}"


def _kept(at: Workplace) -> str:
    return f"; the checkpoint of an earlier step is kept in {at.folder}" if at.checkpoint.exists() else ""


def evaluate_if_due(task: Task, at: Workplace, state: State, log: StageLog) -> None:
    """Evaluate the weights where the schedule says so, once, and keep the best."""
    if not task.schedule.evaluates_at(state.step) or state.evaluated == state.step:
        return
    check_trained(task.name, task.module, state.step, _kept(at))
    result = _evaluate(task, at, state.step)
    state.last = cast(Evaluated, {"step": state.step, **result})
    state.evaluated = state.step
    if not state.best or result["score"] > state.best["score"]:
        state.best = state.last
        if at.world.main:
            replace_folder(at.folder / "best", task.save)
    log.evaluation(state.step, result)


def _evaluate(task: Task, at: Workplace, step: int) -> Evaluation:
    """The evaluation. Weights that are finite but huge show here, before a next step does."""
    images = "validation images"
    with explain_overflow(task.name, task.module, step, images, _kept(at)):
        result = task.evaluate()
    for name, value in result.items():
        if isinstance(value, float) and not math.isfinite(value):
            said = f"{name} of the evaluation must be finite, got {value}"
            raise diverged(task.name, task.module, step, said, images, _kept(at))
    return result


def save(task: Task, at: Workplace, state: State) -> None:
    """Write the checkpoint; all processes wait for it. Raises TrainingError for weights that nothing can go on from."""
    check_trained(task.name, task.module, state.step, _kept(at))
    if at.world.main:
        checkpoint.save(at.checkpoint, task.module, task.optimizer, asdict(state), task.companion)
    at.world.barrier()


def restore(task: Task, at: Workplace) -> State:
    """The state that the stage goes on from."""
    if at.world.main:
        remove_leftovers(at.folder)
    if not at.checkpoint.exists():
        return State()
    state = State(**checkpoint.load(at.checkpoint, task.module, task.optimizer, task.companion))
    at.world.say(f"{task.name}: resumed after step {state.step} of {task.schedule.steps}")
    return state
