"""A run that is killed or stopped anywhere and resumed ends as one that never was."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.helpers import runs

STEPS = 6
STAGES = ("source", "estimator", "full", "tmt")
WEIGHTS = (
    "source/model/model.safetensors",
    "source/best/model.safetensors",
    "estimator/estimator.safetensors",
    "full/model/model.safetensors",
    "tmt/model/model.safetensors",
    "tmt/best/model.safetensors",
)


def lines(path: Path) -> list[dict]:
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("}\n")]


def without_time(path: Path) -> list[dict]:
    return [{name: value for name, value in line.items() if name != "time"} for line in lines(path)]


def assert_same_run(left: Path, right: Path) -> None:
    for name in WEIGHTS:
        assert (left / name).read_bytes() == (right / name).read_bytes(), f"{name} differs"
    for stage in STAGES:
        assert without_time(left / stage / "metrics.jsonl") == without_time(right / stage / "metrics.jsonl")
        assert (left / stage / "done.json").read_text() == (right / stage / "done.json").read_text()
        assert not list((right / stage).glob(".partial-*"))


def train_and_die_writing(argv: list[str], log: Path, stage: str, moment: str) -> int:
    """Train, and kill this process at a moment of writing the second checkpoint of a stage."""
    from tmt.runtime import files
    from tmt.training import checkpoint

    write, replace = checkpoint._write, os.replace
    written: list[Path] = []

    def die_if(due: bool) -> None:
        if due and len(written) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    def save(content: dict, path: Path) -> None:
        write(content, path)
        if path.parent.name == stage:
            written.append(path)
        if moment == "half written" and len(written) == 2:
            os.truncate(path, path.stat().st_size // 2)
        die_if(moment == "half written")

    def rename(source: Path, destination: Path) -> None:
        checkpoint_due = Path(destination).name == "checkpoint.pt"
        die_if(checkpoint_due and moment == "before the rename")
        replace(source, destination)
        die_if(checkpoint_due and moment == "after the rename")

    checkpoint._write, files.os.replace = save, rename
    return runs.train(argv, log)


def kill_at(argv: list[str], log: Path, metrics: Path, count: int, delay: float) -> None:
    """Run until a stage has logged `count` lines, and a moment longer; then SIGKILL."""
    process = runs.start(runs.train, argv, log)
    runs.wait_for(lambda: len(lines(metrics)) >= count, process)
    time.sleep(delay)
    process.kill()
    assert runs.finish(process) == -signal.SIGKILL, log.read_text()


def test_killed_anywhere(finished: Path, tmp_path: Path, source_root: Path, target_root: Path) -> None:
    """Twelve kills: in each stage one while a checkpoint is written and two at random moments."""
    argv = runs.arguments(tmp_path / "run", source_root, target_root, "--resume", steps=STEPS)
    log, seed = tmp_path / "log", time.time_ns()
    print(f"seed of the kill points: {seed}")
    rng = random.Random(seed)
    moments = ["half written", "before the rename", "after the rename"]
    for stage, moment in zip(STAGES, [*moments, rng.choice(moments)], strict=True):
        process = runs.start(train_and_die_writing, argv, log, stage, moment)
        assert runs.finish(process) == -signal.SIGKILL, log.read_text()
        for point in sorted(rng.sample(range(1, STEPS - 1), 2)):
            kill_at(argv, log, tmp_path / "run" / stage / "metrics.jsonl", point, rng.uniform(0, 0.2))
    assert runs.finish(runs.start(runs.train, argv, log)) == 0, log.read_text()
    assert_same_run(finished, tmp_path / "run")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop(
    signum: signal.Signals, finished: Path, tmp_path: Path, source_root: Path, target_root: Path
) -> None:
    """Stopped in the source and in a target stage: saved, one line, exit code 128 + n, and the same end."""
    argv = runs.arguments(tmp_path / "run", source_root, target_root, "--resume", steps=STEPS)
    for stage in ("source", "full"):
        log, metrics = tmp_path / f"log-{stage}", tmp_path / "run" / stage / "metrics.jsonl"
        process = runs.start(runs.train, argv, log)
        runs.wait_for(lambda metrics=metrics: len(lines(metrics)) >= 1, process)
        os.kill(process.pid, signum)
        assert runs.finish(process) == 128 + signum, log.read_text()
        assert f"stopped by {signum.name} after step" in log.read_text()
        assert (tmp_path / "run" / stage / "checkpoint.pt").exists()
    assert runs.finish(runs.start(runs.train, argv, tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    assert_same_run(finished, tmp_path / "run")


def test_stages_one_by_one(finished: Path, tmp_path: Path, source_root: Path, target_root: Path) -> None:
    """Each stage alone, from the outputs of those before it, gives what one command for all gives."""
    for i, stage in enumerate(STAGES):
        more = [f"--stages={stage}", *(["--resume"] if i else [])]
        argv = runs.arguments(tmp_path / "run", source_root, target_root, *more, steps=STEPS)
        assert runs.finish(runs.start(runs.train, argv, tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    assert_same_run(finished, tmp_path / "run")


def test_stage_from_another_run(finished: Path, tmp_path: Path, source_root: Path, target_root: Path) -> None:
    """A target stage in a run of its own, from another run's source model and estimator."""
    weights = finished / "estimator" / "estimator.safetensors"
    more = ("--stages=tmt", f"--source_model={finished}/source/model", f"--estimator_weights={weights}")
    argv = runs.arguments(tmp_path / "run", source_root, target_root, *more, steps=STEPS)
    assert runs.finish(runs.start(runs.train, argv, tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    name = "tmt/model/model.safetensors"
    assert (finished / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
