"""A study that really trains, on one pair: undisturbed, killed three times and on Ray, always with the same results."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.studies import small
from tmt.studies import Result, Study

MODEL = {
    "embed_dim": 16, "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 2], "window": 4, "hidden": 32, "ffn": 32,
    "encoder_ffn": 32, "encoder_layers": 1, "decoder_layers": 3, "attention_heads": 2, "queries": 8, "points": 64,
    "estimator_hidden": 16, "cell": 2, "mask_threshold": 0.3,  # masks of a few steps are hardly above a half anywhere
}  # fmt: skip
FIT = {"steps": 6, "batch_size": 2, "eval_every": 3, "checkpoint_every": 2, "log_every": 1, "lr": 1e-3, "clip": 1.0}
ESTIMATOR = {"steps": 6, "batch_size": 2, "eval_every": 6, "checkpoint_every": 2, "log_every": 1, "eval_images": 2}
TRAINED = {
    "domains": ["cityscapes", "synthia"],
    "pairs": [["synthia", "cityscapes"]],
    "settings": {
        "device": "cpu", "data": {"synthetic_source": 6, "synthetic_target": 4, "synthetic_val": 2, "workers": 0},
        "data.synthetic_size": [48, 96], "augment.crop": [48, 96], "model": MODEL, "source": FIT, "target": FIT,
        "estimator": ESTIMATOR,
    },
    "variants": {"full": {"title": "Full"}, "tmt": {"title": "TMT"}},
}  # fmt: skip
JOBS = 4


def command(folder: Path, *more: str) -> list[str]:
    study = small.write(folder / "trained.yaml", **TRAINED)
    return [sys.executable, "-m", "tmt.experiments", str(study), "--out", str(folder / "out"), "--jobs", "2", *more]


def results(folder: Path) -> list[Result]:
    """The results of a study without what may differ between two calls."""
    found = Study.open(folder / "out").results()
    assert len(found) == JOBS and all(result.seconds > 0 for result in found)
    return [replace(result, seconds=0.0) for result in found]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = subprocess.run(command(folder), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return folder


def test_results(undisturbed: Path) -> None:
    source, full, estimator, tmt = results(undisturbed)
    assert [part.kind for part in (source, full, estimator, tmt)] == ["source", "target", "estimator", "target"]
    assert set(source.on) == {"cityscapes", "synthia"} and source.on["synthia"]["miou"] == source.last["miou"]
    assert source.on["cityscapes"]["miou"] != source.last["miou"] and source.on["cityscapes"]["images"] == 2
    assert [step for step, _ in tmt.curve] == [3, 6] and tmt.curve[-1][1] == tmt.last["score"]
    assert tmt.steps == 6 and tmt.mask_rule == full.mask_rule == "foreground"
    assert 0 <= estimator.estimator["accuracy"] <= 1 and -2 <= estimator.estimator["proxy_a_distance"] <= 2
    assert len(tmt.allowed_fraction) == len(tmt.fallback_rate) == 3 and 0 < tmt.allowed_fraction[0] < 1
    config = Study.open(undisturbed / "out").jobs[full.id].config
    assert len(full.revision) >= 7 and config.target.images == 4


def test_job_folders(undisturbed: Path) -> None:
    """Models load, domains are called synthetic, checkpoints are gone."""
    from tmt.model import TMTForSemanticSegmentation

    study = Study.open(undisturbed / "out")
    tmt = study.job_folder("tmt-synthia-cityscapes-s0") / "tmt"
    assert TMTForSemanticSegmentation.from_pretrained(tmt / "model").config.transferability
    assert json.loads((tmt / "done.json").read_text())["domain"] == "target cityscapes (synthetic)"
    assert not list((undisturbed / "out").rglob("checkpoint.pt"))


def children(pid: int) -> list[int]:
    """The processes that a process has started, from /proc."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in task.read_text().split()]
    return found


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_killed_three_times(undisturbed: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments, sometimes to the study alone, so that its jobs live on without it."""
    seed = time.time_ns()
    print(f"seed of the kill points: {seed}")
    rng = random.Random(seed)
    for orphans in rng.sample([True, False, rng.random() < 0.5], 3):
        with (tmp_path / "log").open("a") as log:
            process = subprocess.Popen(command(tmp_path), stdout=log, stderr=log)
        time.sleep(rng.uniform(4, 14))
        jobs = children(process.pid)
        process.kill()
        process.wait()
        for job in [] if orphans else jobs:
            os.kill(job, signal.SIGKILL)
    ended = subprocess.run(command(tmp_path), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr + (tmp_path / "log").read_text()
    assert results(tmp_path) == results(undisturbed)


def test_asked_to_stop(undisturbed: Path, tmp_path: Path) -> None:
    """SIGTERM: the running jobs save their state; the same command goes on."""
    process = subprocess.Popen(command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "out" / "jobs" / "source-synthia-s0" / "source" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text()) and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    last = shown.splitlines()[-1]
    assert last.startswith("stopped by SIGTERM with ") and last.endswith("the same command goes on")
    assert set(Study.open(tmp_path / "out").states().values()) == {"missing"}
    assert (metrics.parent / "checkpoint.pt").exists()
    assert subprocess.run(command(tmp_path), capture_output=True).returncode == 0
    assert results(tmp_path) == results(undisturbed)
    assert "resumed after step" in (metrics.parents[1] / "log.txt").read_text()


@pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra sweep")
def test_ray(undisturbed: Path, tmp_path: Path) -> None:
    """Two workers of a Ray cluster on this machine give the numbers that local processes give."""
    ended = subprocess.run(command(tmp_path, "--backend", "ray", "--cpus", "1"), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert results(tmp_path) == results(undisturbed)


def test_ray_is_missing(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('no ray here')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    ended = subprocess.run(command(tmp_path, "--backend", "ray"), capture_output=True, text=True, env=environment)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: backend: ray is not installed; pip install 'transferable-mask-transformer[sweep]'")
