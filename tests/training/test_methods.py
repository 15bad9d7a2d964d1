"""Methods and ablations end to end: what trains, equal budgets, the switch between two stages, what is saved."""

import json
import math
import os
import random
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import runs
from tests.training.test_resume import kill_at, lines, train_and_die_writing, without_time
from tmt.cli import evaluate, predict
from tmt.data import TrainBatch
from tmt.errors import ConfigError
from tmt.methods import method_of, metric_steps
from tmt.model.factory import open_model
from tmt.runtime.distributed import World
from tmt.runtime.signals import Stop
from tmt.settings import Config, source_model
from tmt.settings.arguments import parse
from tmt.training.loop import Task, phases_from
from tmt.training.run import Run, open_run
from tmt.training.target import target_task

STEPS, FIRST = 6, 3
METHODS = ("linear", "full", "joint", "leep", "otce")
METRIC = ("--metric.fraction=0.5", "--metric.leep_pixels=64", "--metric.otce_pixels=32")


def arguments(
    out: Path, roots: tuple[Path, Path], finished: Path, stages: str, *more: str, steps: int = STEPS
) -> list[str]:
    """A command line of target stages that start from a finished run's source model and estimator."""
    weights = finished / "estimator" / "estimator.safetensors"
    given = (f"--stages={stages}", f"--source_model={finished}/source/model", f"--estimator_weights={weights}")
    return runs.arguments(out, *roots, *given, *METRIC, *more, steps=steps)


def train(argv: list[str], log: Path) -> None:
    assert runs.finish(runs.start(runs.train, argv, log)) == 0, log.read_text()


def done(run: Path, stage: str) -> dict:
    return json.loads((run / stage / "done.json").read_text())


def steps_of(run: Path, stage: str) -> list[dict]:
    return [line for line in lines(run / stage / "metrics.jsonl") if "loss" in line]


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory, source_root: Path, target_root: Path, finished: Path) -> Path:
    """The folder of a run of every method without the estimator."""
    folder = tmp_path_factory.mktemp("compared")
    train(arguments(folder / "run", (source_root, target_root), finished, ",".join(METHODS)), folder / "log")
    return folder / "run"


def test_one_table_has_every_method(compared: Path) -> None:
    rows = json.loads((compared / "results.json").read_text())["rows"]
    titles = ["linear probing", "full fine-tuning", "joint training", "LEEP fine-tuning", "OTCE fine-tuning"]
    assert [row["method"] for row in rows] == titles
    text = (compared / "results.md").read_text()
    assert all(title in text for title in titles) and text.count("\n") == 2 + len(rows)


def test_every_method_has_the_same_budget(compared: Path) -> None:
    """As many optimiser steps of as many target images, under the same learning rates."""
    assert len({(done(compared, stage)["steps"], done(compared, stage)["batch_size"]) for stage in METHODS}) == 1
    for stage in METHODS:
        assert [line["step"] for line in steps_of(compared, stage)] == list(range(1, STEPS + 1))
    rates = [[line["lr"] for line in steps_of(compared, stage)] for stage in ("full", "joint", "leep", "otce")]
    assert all(rate == rates[0] for rate in rates)
    probing = [line["lr"] * 0.1 for line in steps_of(compared, "linear")]  # its only group is not the backbone's
    assert probing == pytest.approx(rates[0])


@pytest.mark.parametrize("stage", ["leep", "otce"])
def test_the_first_stage_ends_at_its_step(stage: str, compared: Path) -> None:
    taken = steps_of(compared, stage)
    assert [line["step"] for line in taken if stage in line] == [1, 2, 3]
    assert [line["step"] for line in taken if "loss_mask" in line] == [4, 5, 6]
    for line in taken[:FIRST]:
        assert line["loss"] == pytest.approx(-line[stage], abs=1e-4) and line["grad_norm"] > 0
    report = done(compared, stage)["metric"]
    assert (report["name"], report["steps"]) == (stage, FIRST)
    assert (report["first"], report["last"]) == (taken[0][stage], taken[FIRST - 1][stage])
    assert report["source_images"] == (0 if stage == "leep" else FIRST * 2)
    assert not any(stage in line for line in steps_of(compared, "full")) and "metric" not in done(compared, "full")


def test_linear_probing_changes_only_the_class_predictor(
    tmp_path: Path, source_root: Path, target_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With batch norms, whose running means any other way of training would move."""
    resnet = ("--model.backbone=resnet", "--model.widths=[8,8,16,16]", "--stages=source,linear,full")
    train(runs.arguments(tmp_path / "run", source_root, target_root, *resnet, steps=2), tmp_path / "log")
    before, linear, full = (
        load_file(tmp_path / "run" / s / "model/model.safetensors") for s in ("source", "linear", "full")
    )
    moved = {name for name in before if not torch.equal(before[name], linear[name])}
    assert moved == {"class_predictor.weight", "class_predictor.bias"} and before.keys() == linear.keys()
    assert any("running_mean" in name for name in before)
    assert all(not torch.equal(before[name], full[name]) for name in before if "running_mean" in name)


def opened(argv: list[str]) -> Run:
    return open_run(parse(argv), argv, World(torch.device("cpu")), Stop())


def task_of(run: Run, stage: str) -> Task:
    method, config = method_of(stage), run.config
    adapt = partial(method.configure, model=config.model)
    model = open_model(source_model(config, run.folder), adapt, run.domains.label_set)
    return target_task(method, model, config, run.domains, run.workplace(stage))


def batches_of(task: Task, start: int) -> Iterator[tuple[int, TrainBatch]]:
    """The number of the phase and the batch of each step from `start` on."""
    for phase, last in phases_from(task, start):
        first = last - phase.steps
        for batch in phase.batches(max(start, first), last):
            yield list(task.phases).index(phase), batch


@pytest.mark.parametrize("start", [0, 2, 3, 4])
def test_all_methods_see_the_same_target_batches(
    start: int, tmp_path: Path, source_root: Path, target_root: Path, finished: Path
) -> None:
    torch.set_num_threads(1)
    run = opened(arguments(tmp_path / "run", (source_root, target_root), finished, "full"))
    expected = [batch for _, batch in batches_of(task_of(run, "full"), start)]
    assert len(expected) == STEPS - start
    for stage in ("linear", "leep", "otce", "tmt"):
        task = task_of(run, stage)
        assert [phase.steps for phase in task.phases] == (
            [FIRST, STEPS - FIRST] if stage in ("leep", "otce") else [STEPS]
        )
        found = list(batches_of(task, start))
        assert len(found) == len(expected)
        for step, (left, (phase, right)) in enumerate(zip(expected, found, strict=True), start):
            first = stage in ("leep", "otce") and step < FIRST
            assert phase == len(task.phases) - 1 - first
            joined = first and stage == "otce"
            assert len(right["labels"]) == (4 if joined else 2)
            for name in ("pixel_values", "labels", "sample_seeds"):
                assert torch.equal(right[name][-2:], left[name]), (stage, step, name)
            if joined:
                assert right["domains"].tolist() == [0, 0, 1, 1]
                assert not torch.equal(right["pixel_values"][:2], left["pixel_values"])


def test_joint_training_keeps_half_of_each_batch_for_the_source(
    tmp_path: Path, source_root: Path, target_root: Path, finished: Path
) -> None:
    torch.set_num_threads(1)
    run = opened(arguments(tmp_path / "run", (source_root, target_root), finished, "joint", "--target.batch_size=4"))
    task, domains = task_of(run, "joint"), run.domains
    seen = [batch for _, batch in batches_of(task, 0)]
    assert len(seen) == STEPS and [phase.steps for phase in task.phases] == [STEPS] and task.images == 4
    for batch in seen:
        assert batch["domains"].tolist() == [0, 0, 1, 1] and len(batch["labels"]) == 4
        assert set(batch["names"][:2]) <= set(domains.source.train.names)
        assert set(batch["names"][2:]) <= set(domains.target.train.names)
    for (_, again), before in zip(batches_of(task, 3), seen[3:], strict=True):
        assert torch.equal(again["pixel_values"], before["pixel_values"])


def test_joint_training_says_what_it_saw(compared: Path) -> None:
    assert done(compared, "joint")["source_images"] == 6 and "source_images" not in done(compared, "full")
    before = steps_of(compared, "full")[0]["loss"]
    assert steps_of(compared, "joint")[0]["loss"] != before


def test_joint_training_needs_batches_of_two_halves(
    tmp_path: Path, source_root: Path, target_root: Path, finished: Path
) -> None:
    argv = arguments(tmp_path / "run", (source_root, target_root), finished, "joint", "--target.batch_size=3")
    with pytest.raises(ConfigError, match="target.batch_size: must be a multiple of 2 for stage joint, .* got 3"):
        opened(argv)


@pytest.mark.parametrize("stage", ["linear", "joint", "leep", "otce"])
def test_killed_on_both_sides_of_the_switch(
    stage: str, compared: Path, tmp_path: Path, source_root: Path, target_root: Path, finished: Path
) -> None:
    """Killed at random moments of both stages."""
    more = ("--resume", "--target.checkpoint_every=1")
    argv = arguments(tmp_path / "run", (source_root, target_root), finished, stage, *more)
    log, seed = tmp_path / "log", time.time_ns()
    print(f"seed of the kill points: {seed}")
    rng = random.Random(seed)
    for count in (1, FIRST, FIRST + 1):
        kill_at(argv, log, tmp_path / "run" / stage / "metrics.jsonl", count, rng.uniform(0, 0.1))
    train(argv, log)
    assert_same_stage(compared, tmp_path / "run", stage)


@pytest.mark.parametrize("moment", ["half written", "before the rename", "after the rename"])
def test_killed_writing_the_checkpoint_at_the_switch(
    moment: str, compared: Path, tmp_path: Path, source_root: Path, target_root: Path, finished: Path
) -> None:
    more = ("--resume", "--target.checkpoint_every=2", "--target.eval_every=3")  # the second one is of step 3
    argv = arguments(tmp_path / "run", (source_root, target_root), finished, "leep", *more)
    process = runs.start(train_and_die_writing, argv, tmp_path / "log", "leep", moment)
    assert runs.finish(process) == -9, (tmp_path / "log").read_text()
    kept = torch.load(tmp_path / "run" / "leep" / "checkpoint.pt", weights_only=True)
    assert kept["state"]["step"] == (FIRST if moment == "after the rename" else 2)
    assert kept["memory"]["joint"].sum() == pytest.approx(1, abs=1e-4)
    train(argv, tmp_path / "log")
    assert_same_stage(compared, tmp_path / "run", "leep")


def assert_same_stage(left: Path, right: Path, stage: str) -> None:
    for kind in ("model", "best"):
        name = f"{stage}/{kind}/model.safetensors"
        assert (left / name).read_bytes() == (right / name).read_bytes(), f"{name} differs"
    assert without_time(left / stage / "metrics.jsonl") == without_time(right / stage / "metrics.jsonl")
    assert (left / stage / "done.json").read_text() == (right / stage / "done.json").read_text()


def train_as(argv: list[str], log: Path, variables: dict[str, str]) -> int:
    """`tmt.train` as one of several processes."""
    os.environ.update(variables)
    return runs.train(argv, log)


def without_drop_path(model: Path, folder: Path) -> Path:
    """A copy of a saved Swin model without stochastic depth, which each process would draw for itself."""
    shutil.copytree(model, folder)
    settings = json.loads((folder / "config.json").read_text())
    assert settings["backbone_config"]["drop_path_rate"] > 0
    settings["backbone_config"]["drop_path_rate"] = 0.0
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("stage", ["linear", "joint", "leep", "otce"])
def test_two_processes_train_as_one(
    stage: str, tmp_path: Path, source_root: Path, target_root: Path, finished: Path
) -> None:
    """Both stages, with the running estimate and the coupling of all processes' pixels."""
    source = without_drop_path(finished / "source" / "model", tmp_path / "source")
    same = (f"--source_model={source}", "--target.lr=1e-4", "--target.batch_size=4")
    alone, together = (
        arguments(tmp_path / name, (source_root, target_root), finished, stage, *same, steps=4)
        for name in ("one", "two")
    )
    train(alone, tmp_path / "log-one")
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(runs.free_port()), "WORLD_SIZE": "2"}
    started = [
        runs.start(train_as, together, tmp_path / f"log-{rank}", {**world, "RANK": str(rank)}) for rank in range(2)
    ]
    assert runs.finish_all(started) == [0, 0], (tmp_path / "log-0").read_text() + (tmp_path / "log-1").read_text()
    one, two = steps_of(tmp_path / "one", stage), steps_of(tmp_path / "two", stage)
    assert len(one) == len(two) == 4
    for left, right in zip(one, two, strict=True):
        assert left.keys() == right.keys()
        for name in ("loss", "grad_norm"):
            assert right[name] == pytest.approx(left[name], rel=1e-4)
        if stage in left:
            assert right[stage] == pytest.approx(left[stage], abs=2e-4)  # logged to four digits


SOME_FOREGROUND = "--model.mask_threshold=0.3"  # masks of a model of a few steps are hardly above a half anywhere
ABLATIONS = {
    "wo_acte": {"regions": "grid"},
    "wo_tma": {"transfer_mode": "bias"},
    "rule of the paper": {"mask_rule": "uncertain"},
    "rule none": {"mask_rule": "none"},
    "wo_tma under the rule of the paper": {"transfer_mode": "bias", "mask_rule": "uncertain"},
    "p_T 0.1": {"transfer_fraction": 0.1},
    "p_T 0.2": {"transfer_fraction": 0.2},
    "p_T 0.4": {"transfer_fraction": 0.4},
    "p_T 0.5": {"transfer_fraction": 0.5},
    "control: low T excluded": {"transfer_exclude": "low"},
    "T in training only": {"transfer_at_inference": False},
    "source features": {"transfer_features": "source"},
    "kappa": {"kappa": 50.0},
    "cell": {"cell": 4},
    "fallback": {"fallback": "transfer"},
}


@pytest.fixture(scope="session")
def ablated(
    tmp_path_factory: pytest.TempPathFactory, source_root: Path, target_root: Path, finished: Path
) -> dict[str, Path]:
    """The folder of each ablation's run of two steps."""
    folder, found = tmp_path_factory.mktemp("ablated"), {}
    for i, (name, fields) in enumerate(ABLATIONS.items()):
        settings = [f"--model.{field}={str(value).lower()}" for field, value in fields.items()]
        argv = arguments(
            folder / str(i),
            (source_root, target_root),
            finished,
            "tmt",
            *settings,
            SOME_FOREGROUND,
            "--pictures=0",
            steps=2,
        )
        train(argv, folder / f"log-{i}")
        found[name] = folder / str(i)
    return found


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_trains_and_evaluates(name: str, ablated: dict[str, Path]) -> None:
    run = ablated[name]
    assert [line["step"] for line in steps_of(run, "tmt")] == [1, 2]
    assert all(math.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in steps_of(run, "tmt"))
    result = done(run, "tmt")
    assert result["last"]["step"] == 2 and 0 <= result["last"]["miou"] <= 100
    saved = json.loads((run / "tmt/model/config.json").read_text())
    for field, value in ABLATIONS[name].items():
        assert result["settings"][field] == saved[field] == value


def test_other_regions_than_the_estimator_s_are_told(ablated: dict[str, Path]) -> None:
    warned = {
        name: [line for line in (run.parent / f"log-{run.name}").read_text().splitlines() if "warning" in line]
        for name, run in ablated.items()
    }
    for name, words in {
        "wo_acte": "model.regions is grid here and was superpixel",
        "kappa": "model.kappa is 50.0 here and was 14.28",
        "cell": "model.cell is 4 here and was",
    }.items():
        (line,) = warned.pop(name)
        assert "estimator.safetensors" in line and words in line
    assert not any(warned.values()), warned


def test_ablations_change_what_training_sees(ablated: dict[str, Path]) -> None:
    """At the first step the weights are the same, so that the losses differ by the setting alone."""
    losses = {name: steps_of(run, "tmt")[0]["loss"] for name, run in ablated.items()}
    plain = losses.pop("T in training only")  # which trains as TMT does
    assert losses.pop("source features") == pytest.approx(plain)  # still alike
    assert all(loss != plain for name, loss in losses.items() if name != "fallback"), losses


def evaluated(argv: list[str], log: Path) -> int:
    runs.redirect(log)
    return evaluate.main(argv)


def test_transferability_in_training_only(ablated: dict[str, Path], tmp_path: Path, target_root: Path) -> None:
    """Evaluation of such a model is that of one without T, unless the command asks for it."""
    run = ablated["T in training only"]
    argv = [f"{run}/tmt/model", "--dataset=cityscapes", f"--root={target_root}", "--device=cpu"]
    found = {}
    for name, more in {"saved": [], "off": ["--transferability=false"], "on": ["--transferability=true"]}.items():
        command = [*argv, *more, f"--out={tmp_path / name}"]
        assert runs.finish(runs.start(evaluated, command, tmp_path / "log")) == 0, (tmp_path / "log").read_text()
        found[name] = json.loads((tmp_path / name / "metrics.json").read_text())
    trained = done(run, "tmt")["last"]
    assert found["saved"]["allowed_fraction"] == trained["allowed_fraction"] == found["off"]["allowed_fraction"]
    assert found["saved"]["miou"] == trained["miou"] == found["off"]["miou"]
    assert found["on"]["allowed_fraction"] != trained["allowed_fraction"]
    assert "without transferability" in (tmp_path / "saved" / "scores.md").read_text()
    assert "with transferability" in (tmp_path / "on" / "scores.md").read_text()
    used = [line["allowed_fraction"] for line in steps_of(run, "tmt")]
    assert used[0] == steps_of(ablated["source features"], "tmt")[0]["allowed_fraction"]  # with T in training


def test_predict_says_that_a_model_uses_no_transferability(
    ablated: dict[str, Path], tmp_path: Path, target_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = next(target_root.rglob("*_leftImg8bit.png"))
    argv = [f"{ablated['T in training only']}/tmt/model", str(image), "--save=transferability", "--device=cpu"]
    assert predict.main([*argv, f"--out={tmp_path / 'out'}"]) == 2
    assert "no transferability in inference" in capsys.readouterr().err
    assert predict.main([*argv, f"--out={tmp_path / 'out'}", "--transferability=true"]) == 0
    assert len(list((tmp_path / "out" / "transferability").rglob("*.png"))) == 1


def test_source_features_stay_the_source_model_s(ablated: dict[str, Path], finished: Path) -> None:
    source = open_model(finished / "source" / "model").model.pixel_level_module.state_dict()
    model = open_model(ablated["source features"] / "tmt" / "model")
    kept, live = model.source_features.state_dict(), model.model.pixel_level_module.state_dict()
    assert all(torch.equal(tensor, source[name]) for name, tensor in kept.items())
    assert sum(not torch.equal(live[name], tensor) for name, tensor in kept.items()) > len(kept) / 2


def test_defaults_are_the_specification_s() -> None:
    metric = Config().metric
    assert (metric.fraction, metric.leep_pixels, metric.leep_momentum) == (0.1, 4096, 0.9)
    assert (metric.otce_pixels, metric.otce_epsilon, metric.otce_iterations) == (1024, 0.1, 50)
    assert metric_steps(metric.fraction, Config().target.steps) == 2000
    assert Config().model.transfer_at_inference
