"""The one training loop. A stage describes what it trains as a `Task`; everything else is the same for all stages."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from tmt.errors import TrainingError
from tmt.runtime.distributed import World
from tmt.runtime.files import remove_leftovers, replace_folder
from tmt.runtime.seeding import derive, seed_all
from tmt.runtime.signals import Interrupted, Stop
from tmt.training import checkpoint
from tmt.training.metric_lines import MetricLines

Batch = dict[str, object]
Evaluation = dict[str, object]
"""The result of an evaluation as JSON values; `score` is the number that selects the best."""


@dataclass(frozen=True)
class Pace:
    """How long a stage trains and how often it does what else it does, in steps."""

    steps: int
    eval_every: int
    checkpoint_every: int
    log_every: int
    images: int
    """Images per step over all processes, for the rate shown."""

    def evaluates_at(self, step: int) -> bool:
        """Whether the weights after `step` steps are evaluated."""
        return step == self.steps or (step > 0 and step % self.eval_every == 0)


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
    pace: Pace
    batches: Callable[[int], Iterator[Batch]]
    """The batches from a given step to the last one."""
    loss: Callable[[Batch], tuple[Tensor, dict[str, object]]]
    """The loss of a batch (its mean over processes is the global loss) and what else to log."""
    evaluate: Callable[[], Evaluation | None]
    """Evaluates the module, the same result on all processes; None when asked to stop half-way."""
    save: Callable[[Path], None]
    """Fills a folder with the module in the form that others load."""
    memory: nn.Module | None = None
    """What else a resumed stage needs: a module with buffers, such as a running mean of the loss's own."""
    restart: int = 0
    """The step before which the optimiser forgets its moments: where another loss, of another scale, begins."""


@dataclass
class State:
    """Where a stage stands. Together with weights and optimiser it determines everything that follows."""

    step: int = 0
    """Steps done."""
    evaluated: int = 0
    """The last step whose weights were evaluated."""
    last: Evaluation = field(default_factory=dict)
    """The last evaluation."""
    best: Evaluation = field(default_factory=dict)
    """The evaluation of the highest score, with its `step`."""


@dataclass(frozen=True)
class Fit:
    """One stage at work in its folder."""

    task: Task
    folder: Path
    world: World
    stop: Stop
    seed: int

    @property
    def checkpoint(self) -> Path:
        """The file that the stage resumes from."""
        return self.folder / "checkpoint.pt"

    def run(self) -> State:
        """Train to the last step, from the checkpoint if there is one.

        Raises TrainingError when the loss or the gradient is not finite, and Interrupted, with everything saved, when
        asked to stop.
        """
        state = self._restore()
        lines = MetricLines(self.folder / "metrics.jsonl", state.step) if self.world.main else None
        with self._bar(state) as bar:
            self._evaluate_if_due(state, lines)
            for batch in self.task.batches(state.step):
                values = self._step(batch, state.step)
                state.step += 1
                self._show(state, values, bar, lines)
                if values["stop"]:
                    self._leave(state)
                self._evaluate_if_due(state, lines)
                if state.step % self.task.pace.checkpoint_every == 0 or state.evaluated == state.step:
                    self._save(state)
        if lines:
            lines.close()
        return state

    def _step(self, batch: Batch, step: int) -> dict[str, float]:
        """One optimiser step; returns what to log. Its randomness depends on seed, stage, step and process alone."""
        task = self.task
        seed_all(derive(self.seed, task.name, step, self.world.rank))
        if step == task.restart:
            task.optimizer.state.clear()
        for group in task.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * task.rate(step)
        task.optimizer.zero_grad(set_to_none=True)
        loss, parts = task.loss(batch)
        mean, stop = self._agree(loss)
        self._check_finite("loss", mean, batch, step)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_([p for p in task.module.parameters() if p.requires_grad], task.clip))
        self._check_finite("gradient norm", norm, batch, step)
        task.optimizer.step()
        return {"loss": mean, "grad_norm": norm, **parts, "lr": task.optimizer.param_groups[0]["lr"], "stop": stop}

    def _agree(self, loss: Tensor) -> tuple[float, bool]:
        """The global loss, and whether any process was asked to stop."""
        asked = torch.full((1,), float(self.stop.signum > 0), device=loss.device)
        both = self.world.sum(torch.cat([loss.detach().reshape(1).float(), asked])).tolist()
        return both[0] / self.world.size, both[1] > 0

    def _check_finite(self, what: str, value: float, batch: Batch, step: int) -> None:
        if math.isfinite(value):
            return
        kept = f"the checkpoint of an earlier step is kept in {self.folder}" if self.checkpoint.exists() else ""
        images = ", ".join(batch["names"])
        raise TrainingError(
            f"{self.task.name}: {what} must be finite, got {value} at step {step} (images {images}); "
            f"lower the learning rate or the clip, or look at these images{'; ' + kept if kept else ''}"
        )

    def _evaluate_if_due(self, state: State, lines: MetricLines | None) -> None:
        if not self.task.pace.evaluates_at(state.step) or state.evaluated == state.step:
            return
        result = self.task.evaluate()
        if result is None:
            self._leave(state)
        state.last = {"step": state.step, **result}
        state.evaluated = state.step
        if not state.best or result["score"] > state.best["score"]:
            state.best = state.last
            if self.world.main:
                replace_folder(self.folder / "best", self.task.save)
        if lines:
            lines.write(step=state.step, evaluation=result)

    def _leave(self, state: State) -> None:
        self._save(state)
        raise Interrupted(self.stop.signum or 15, f"after step {state.step} of {self.task.name}")

    def _save(self, state: State) -> None:
        if self.world.main:
            checkpoint.save(self.checkpoint, self.task.module, self.task.optimizer, asdict(state), self.task.memory)
        self.world.barrier()

    def _restore(self) -> State:
        if self.world.main:
            remove_leftovers(self.folder)
        if not self.checkpoint.exists():
            return State()
        state = State(**checkpoint.load(self.checkpoint, self.task.module, self.task.optimizer, self.task.memory))
        self.world.say(f"{self.task.name}: resumed after step {state.step} of {self.task.pace.steps}")
        return state

    def _bar(self, state: State) -> tqdm:
        terminal = sys.stderr.isatty()
        return tqdm(
            total=self.task.pace.steps,
            initial=state.step,
            desc=self.task.name,
            unit="step",
            mininterval=0.5 if terminal else 20,
            dynamic_ncols=terminal,
            disable=not self.world.main,
        )

    def _show(self, state: State, values: dict[str, float], bar: tqdm, lines: MetricLines | None) -> None:
        if lines is None:
            return
        elapsed = bar.format_dict["elapsed"]
        rate = (bar.n + 1 - bar.initial) * self.task.pace.images / max(elapsed, 1e-9)
        bar.set_postfix_str(f"loss {values['loss']:.3f}, lr {values['lr']:.1e}, {rate:.1f} img/s", refresh=False)
        bar.update()
        if state.step % self.task.pace.log_every == 0:
            logged = {name: value for name, value in values.items() if name != "stop"}
            lines.write(step=state.step, time=round(time.time(), 3), **logged)


def poly(steps: int, power: float, warmup: int = 0) -> Callable[[int], float]:
    """The poly schedule (1 - step / steps) ** power, after a linear warm-up, as a factor on the learning rate."""

    def factor(step: int) -> float:
        start = min(1.0, (step + 1) / (warmup + 1))
        return start * (1 - step / steps) ** power

    return factor


def adamw(groups: list[dict[str, object]]) -> Optimizer:
    """AdamW over named parameter groups, each with its own `lr` and `weight_decay`."""
    optimizer = torch.optim.AdamW(groups)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def describe_groups(optimizer: Optimizer) -> list[tuple[str, ...]]:
    """One row a group: name, tensors, parameters, learning rate, weight decay."""
    return [
        (
            str(group["name"]),
            f"{len(group['params'])}",
            f"{sum(parameter.numel() for parameter in group['params']):,}",
            f"{group['initial_lr']:.2e}",
            f"{group['weight_decay']:g}",
        )
        for group in optimizer.param_groups
    ]
