"""The training loop on a model of one weight, and the parts it is made of."""

import copy
import dataclasses
import json
import math
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from tmt.cli.command import command, one_line
from tmt.errors import DataError, TrainingError
from tmt.runtime.distributed import World
from tmt.runtime.seeding import derive, seed_all
from tmt.runtime.signals import Interrupted, Stop, listen
from tmt.training import loop
from tmt.training.loop import Loss, Phase, Task, Workplace
from tmt.training.optimizer import adamw
from tmt.training.schedule import Schedule, poly

WORLD = World(torch.device("cpu"))


class Scores:
    """An evaluation that gives the scores it was told to."""

    def __init__(self, *scores: float):
        self.scores = list(scores)

    def __call__(self) -> dict[str, object]:
        return {"score": self.scores.pop(0)}


def task_of(*, steps: int = 4, losses: dict[int, float] | None = None, evaluate=None, stop: tuple = ()) -> Task:
    """A task whose loss is weight * noise, or what `losses` says at a step; `stop` is (Stop, step to ask it at)."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)

    def loss(batch: dict) -> Loss:
        factor = (losses or {}).get(batch["step"], float(torch.rand(())))
        if stop and batch["step"] == stop[1]:
            stop[0].signum = signal.SIGTERM
        return Loss(module.weight.sum() * factor, {})

    def batches(first: int, last: int) -> Iterator[dict]:
        return ({"step": step, "names": [f"image-{step}"]} for step in range(first, last))

    return Task(
        name="toy",
        module=module,
        optimizer=adamw([{"name": "all", "params": list(module.parameters()), "lr": 0.1, "weight_decay": 0.0}]),
        rate=poly(steps, 0.9),
        clip=math.inf,
        schedule=Schedule(steps, eval_every=2, checkpoint_every=1, log_every=1),
        phases=[Phase(steps, batches, loss)],
        images=1,
        evaluate=evaluate or Scores(*range(10)),
        save=lambda folder: (folder / "weight").write_text(str(module.weight.item())),
    )


def fit(task: Task, folder: Path, stop: Stop | None = None):
    return loop.fit(task, Workplace(folder, WORLD, stop or Stop(), seed=0))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_not_finite_changes_nothing(value: float, tmp_path: Path) -> None:
    task = task_of(losses={2: value})
    message = rf"toy: loss must be finite, got {value} at step 2 \(images image-2; all weights are finite, .*\); lower"
    with pytest.raises(TrainingError, match=message):
        fit(task, tmp_path)
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert kept["state"]["step"] == 2 and torch.equal(kept["module"]["weight"], task.module.weight)


def test_gradient_that_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    task = task_of()
    task.module.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingError, match="gradient norm must be finite, got inf at step 0"):
        fit(task, tmp_path)
    assert task.module.weight.item() == 1.0 and not (tmp_path / "checkpoint.pt").exists()


def after(task: Task, step: int, action) -> Task:
    """The task with something done to its weight by the optimiser's update of a step."""
    take = task.optimizer.step

    def step_and_act() -> None:
        take()
        task.optimizer.param_groups[0]["taken"] = taken = task.optimizer.param_groups[0].get("taken", 0) + 1
        if taken == step + 1:
            action(task.module.weight)

    task.optimizer.step = step_and_act  # type: ignore[method-assign]
    return task


def test_weights_that_are_not_finite_are_neither_saved_nor_evaluated(tmp_path: Path) -> None:
    task = after(task_of(evaluate=Scores()), 1, lambda weight: weight.data.fill_(math.nan))
    with pytest.raises(
        TrainingError, match=r"got weight \(1 of 1 values\) .* after step 2; lower .*; the checkpoint of"
    ):
        fit(task, tmp_path)
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert kept["state"]["step"] == 1 and kept["module"]["weight"].isfinite().all()


def test_weights_and_not_images_are_at_fault(tmp_path: Path) -> None:
    task = after(task_of(steps=3), 0, lambda weight: weight.data.fill_(-math.inf))
    task = dataclasses.replace(task, schedule=Schedule(3, eval_every=9, checkpoint_every=9, log_every=1))
    with pytest.raises(
        TrainingError, match=r"at step 1: step 0 has made weights .* the first weight \(1 of 1"
    ) as caught:
        fit(task, tmp_path)
    assert "images" not in str(caught.value)


def failing(task: Task, error: Exception) -> Task:
    def loss(batch: dict) -> Loss:
        raise error

    return dataclasses.replace(task, phases=[dataclasses.replace(task.phases[0], loss=loss)])


@pytest.mark.parametrize("text", ["threshold must be in [0, 1], got -nan", "matrix contains invalid numeric entries"])
def test_operation_that_cannot_take_such_numbers(text: str, tmp_path: Path) -> None:
    task = task_of()
    task.module.weight.data.fill_(3e20)
    with pytest.raises(TrainingError, match=r"\(.*\) at step 0 .*all weights are finite, at most 3.0e\+20 in weight"):
        fit(failing(task, ValueError(text)), tmp_path)


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^nancy is no name$"):
        fit(failing(task_of(), ValueError("nancy is no name")), tmp_path)


def fail_on_nan() -> dict[str, object]:
    raise RuntimeError("pack_predicted_mask: transfer_threshold must be in [0, 1], got nan")


@pytest.mark.parametrize("evaluate", [fail_on_nan, lambda: {"score": 0.5, "mean": math.nan}])
def test_evaluation_of_huge_weights(evaluate, tmp_path: Path) -> None:
    """They are finite and so was the loss: the evaluation is the first to meet what comes of them."""
    task = task_of(evaluate=evaluate)
    with pytest.raises(TrainingError, match=r"toy: .* got nan.* at step 2 \(validation images; .*learning rate"):
        fit(task, tmp_path)
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert kept["state"]["step"] == 1 and not (tmp_path / "best").exists()


def in_phases(task: Task, *steps: int) -> Task:
    """The task with its phase divided into several."""
    return dataclasses.replace(task, phases=[dataclasses.replace(task.phases[0], steps=count) for count in steps])


@pytest.mark.parametrize("steps, updates", [((4,), 4), ((2, 2), 2), ((1, 2, 1), 1), ((0, 4), 4)])
def test_optimiser_forgets_its_moments_where_a_phase_begins(steps: tuple, updates: int, tmp_path: Path) -> None:
    task = in_phases(task_of(), *steps)
    fit(task, tmp_path)
    assert [float(state["step"]) for state in task.optimizer.state.values()] == [updates]


def test_what_the_loss_remembers_is_resumed(tmp_path: Path) -> None:
    """A running mean of the losses and a teacher, interrupted where a phase ends."""

    def remembering(stop: tuple = ()) -> Task:
        task, memory = task_of(stop=stop, evaluate=Scores(0, 1)), nn.Module()
        memory.register_buffer("mean", torch.zeros(()))
        teacher = copy.deepcopy(task.module).requires_grad_(False)

        def loss(batch: dict) -> Loss:
            value, _ = task.phases[0].loss(batch)
            memory.mean.lerp_(value.detach(), 0.5)
            teacher.weight.lerp_(task.module.weight.detach(), 0.5)
            return Loss(value + memory.mean * (task.module.weight - teacher.weight / 2).sum(), {})

        phases = [dataclasses.replace(task.phases[0], steps=2, loss=loss)] * 2
        both = nn.ModuleDict({"memory": memory, "teacher": teacher})
        return dataclasses.replace(task, phases=phases, companion=both)

    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole, rest, stop = remembering(), remembering(), Stop()
    fit(whole, tmp_path / "whole")
    with pytest.raises(Interrupted, match="after step 2"):
        fit(remembering((stop, 1)), tmp_path / "parts", stop)
    fit(rest, tmp_path / "parts")
    found, expected = rest.companion.state_dict(), whole.companion.state_dict()
    assert found.keys() == expected.keys() == {"memory.mean", "teacher.weight"}
    assert all(torch.equal(found[name], expected[name]) for name in expected) and expected["memory.mean"] > 0
    assert torch.equal(rest.module.weight, whole.module.weight)


def test_best_is_kept_when_the_last_is_worse(tmp_path: Path) -> None:
    state = fit(task_of(steps=6, evaluate=Scores(0.3, 0.9, 0.5)), tmp_path)
    assert (state.last["step"], state.last["score"]) == (6, 0.5)
    assert (state.best["step"], state.best["score"]) == (4, 0.9)
    best = float((tmp_path / "best" / "weight").read_text())
    last = float(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["module"]["weight"])
    assert best != last


def test_stopped_and_resumed_is_the_same(tmp_path: Path) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = task_of()
    fit(whole, tmp_path / "whole")
    stop = Stop()
    with pytest.raises(Interrupted, match="stopped by SIGTERM after step 2 of toy; the same command with --resume"):
        fit(task_of(stop=(stop, 1)), tmp_path / "parts", stop)
    rest = task_of(evaluate=Scores(0, 1))
    fit(rest, tmp_path / "parts")
    assert torch.equal(rest.module.weight, whole.module.weight)


def test_stop_during_evaluation_repeats_the_evaluation(tmp_path: Path) -> None:
    stop, answers = Stop(), [None, {"score": 1.0}, {"score": 2.0}]

    def evaluate() -> dict:
        stop.signum = signal.SIGINT if answers[0] is None else 0
        answer = answers.pop(0)
        WORLD.leave_if_asked(stop, "while evaluating")
        return answer

    with pytest.raises(Interrupted, match="after step 2"):
        fit(task_of(evaluate=evaluate), tmp_path, stop)
    fit(task_of(evaluate=evaluate), tmp_path, Stop())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "evaluation" in line] == [2, 4]


def test_poly_schedule() -> None:
    rate = poly(100, 0.9)
    assert rate(0) == 1 and rate(50) == pytest.approx(0.5**0.9) and rate(99) == pytest.approx(0.01**0.9)
    warm = poly(100, 0.9, warmup=3)
    assert [warm(step) / rate(step) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_seeds_are_functions_of_their_parts() -> None:
    seeds = {derive(seed, stage, step, rank) for seed in (0, 1) for stage in "ab" for step in (0, 1) for rank in (0, 1)}
    assert len(seeds) == 16 and all(0 <= seed < 2**63 for seed in seeds)
    assert derive(0, "a", 1) == derive(0, "a", 1)
    seed_all(derive(0, "a"))
    first = torch.rand(3)
    seed_all(derive(0, "a"))
    assert torch.equal(first, torch.rand(3))


def test_signals_are_remembered_and_handlers_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with listen() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.signum == signal.SIGTERM and stop.asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: BaseException):
        def action(argv) -> None:
            raise error

        return action

    assert command(lambda argv: None, []) == 0
    assert command(fail(DataError("a: bad\nvalue")), []) == 2
    assert capsys.readouterr().err == "error: a: bad value\n"
    assert command(fail(Interrupted(signal.SIGTERM, "here")), []) == 143
    assert command(fail(KeyboardInterrupt()), []) == 130
    with pytest.raises(ImportError):
        command(fail(ImportError("something else")), [])


def test_error_of_a_data_process_is_shown_without_its_traceback() -> None:
    text = "Caught DataError in worker 0.\nOriginal Traceback (most recent call last):\n  x\ntmt.errors.DataError: a: b"
    assert one_line(text) == "a: b"
