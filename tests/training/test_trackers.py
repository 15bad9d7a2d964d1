"""What trackers get, read back with their own packages, offline; and a run that tracks while it trains."""

import json
import math
from pathlib import Path

import pytest

from tests.helpers import runs
from tmt.errors import ConfigError
from tmt.training import trackers
from tmt.training.trackers import Trackers, Tracking, check_trackers

SETTINGS = {"seed": 3, "model.hidden": 32, "target.images": None}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def stage(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "tmt"
    folder.mkdir(parents=True)
    return folder


def track(names: tuple, folder: Path, steps: range) -> None:
    """A stage that logs some steps, then is evaluated; resumed where it does not begin at 1."""
    opened = Trackers(Tracking(names, SETTINGS), folder, steps.start - 1)
    for step in steps:
        opened.log(step, loss=1 / step, allowed_fraction=[0.5, 0.25], lr=1e-3, note="no number")
    opened.log(steps[-1], evaluation={"miou": 50.0 + steps[-1], "iou": [40.0, None], "classes": ["a", "b"]})
    opened.close()


def test_tensorboard_keeps_every_number(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = stage(tmp_path)
    track(("tensorboard",), folder, range(1, 4))
    track(("tensorboard",), folder, range(3, 5))  # resumed after step 2
    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    tags = {"loss", "lr", "allowed_fraction/0", "allowed_fraction/1", "evaluation/miou", "evaluation/iou/0"}
    assert set(found.Tags()["scalars"]) == tags
    losses = [(one.step, one.value) for one in found.Scalars("loss")]
    assert [step for step, _ in losses] == [1, 2, 3, 4]  # step 3 once: what was logged after step 2 is purged
    assert all(math.isclose(value, 1 / step, rel_tol=1e-6) for step, value in losses)
    assert [one.value for one in found.Scalars("evaluation/miou")] == [54.0]
    assert b"model.hidden: 32" in found.Tensors("settings/text_summary")[0].tensor_proto.string_val[0]


def test_mlflow_goes_on_with_its_run(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    folder = stage(tmp_path)
    track(("mlflow",), folder, range(1, 3))
    track(("mlflow",), folder, range(3, 5))
    client = MlflowClient((tmp_path / "run/mlruns").as_uri())
    experiment = client.get_experiment_by_name("tmt")
    assert experiment
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "run/tmt"
    assert run.data.params == {"seed": "3", "model.hidden": "32", "target.images": "None"}
    history = [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "loss")]
    assert sorted(history) == [(step, 1 / step) for step in (1, 2, 3, 4)]
    assert run.data.metrics["evaluation/miou"] == 54.0 and run.data.metrics["allowed_fraction/1"] == 0.25


def test_wandb_writes_a_run_offline(tmp_path: Path) -> None:
    folder = stage(tmp_path)
    import wandb

    track(("wandb",), folder, range(1, 4))
    wandb.teardown()  # as at the end of a process: its service has written everything then
    (kept,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    content = kept.read_bytes()
    for word in (b"allowed_fraction/1", b"evaluation/miou", b"model.hidden", b"run/tmt"):
        assert word in content
    assert trackers._identity(folder) in kept.name  # what a resumed stage goes on with


class Failing:
    def __init__(self, *_: object):
        self.calls = 0

    def log(self, step: int, values: dict) -> None:
        raise OSError("no route to host\nat all")

    def close(self) -> None:
        raise AssertionError("a tracker that gave up is closed no more")


def test_a_tracker_that_fails_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(trackers.KINDS, "wandb", Failing)
    folder = stage(tmp_path)
    track(("wandb", "tensorboard"), folder, range(1, 4))
    said = capsys.readouterr().out
    assert said.count("warning: track: wandb gave up (no route to host at all)") == 1
    assert list(folder.glob("tensorboard/events*"))


def test_a_missing_package_and_a_tracker_named_twice_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    check_trackers(())
    with pytest.raises(ConfigError, match="track: must name each tracker once, got wandb, wandb"):
        check_trackers(("wandb", "wandb"))
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"track: mlflow is not installed; pip install '.*\[track\]'"):
        check_trackers(("mlflow",))


def test_a_run_tracks_what_it_records(tmp_path: Path, source_root: Path, target_root: Path) -> None:
    """Two stages in one event folder each, the same steps and losses as metrics.jsonl."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    more = ("--stages=source,full", "--track=tensorboard")
    argv = runs.arguments(tmp_path / "run", source_root, target_root, *more)
    assert runs.finish(runs.start(runs.train, argv, tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    for name in ("source", "full"):
        lines = [json.loads(line) for line in (tmp_path / f"run/{name}/metrics.jsonl").read_text().splitlines()]
        found = EventAccumulator(str(tmp_path / f"run/{name}/tensorboard"))
        found.Reload()
        kept = [(one.step, one.value) for one in found.Scalars("loss")]
        expected = [(line["step"], line["loss"]) for line in lines if "loss" in line]
        assert [step for step, _ in kept] == [step for step, _ in expected]
        assert [value for _, value in kept] == pytest.approx([value for _, value in expected], rel=1e-6)
        assert len(found.Scalars("evaluation/miou")) == 2
