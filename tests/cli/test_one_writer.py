"""A second command on an output folder that one writes to is refused on one line and leaves the folder alone."""

import os
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers import runs
from tests.studies import small
from tmt.cli import data, evaluate, predict, report, score, study, train
from tmt.runtime.lock import LOCK, only_one


def command(name: str, out: Path, tmp_path: Path) -> int:
    """A command that writes to `out`. What it reads is not there, for all but those that look at it first."""
    nowhere = tmp_path / "nowhere"
    match name:
        case "train" | "resume":
            return train.main(runs.arguments(out, nowhere, nowhere, *(["--resume"] if name == "resume" else [])))
        case "evaluate":
            return evaluate.main([str(nowhere), "--dataset=cityscapes", f"--root={nowhere}", f"--out={out}"])
        case "predict":
            Image.new("RGB", (8, 8)).save(tmp_path / "street.png")
            return predict.main([str(nowhere), str(tmp_path / "street.png"), f"--out={out}"])
        case "check":
            return data.main(["check", "cityscapes", str(nowhere), f"--out={out}"])
        case "report":
            return report.main([str(nowhere), f"--out={out}"])
        case "export":
            begun = small.begin(tmp_path)
            begun.save()
            return study.main([str(begun.folder), f"--export={out}"])
        case "experiments":
            return study.main([str(small.write(tmp_path / "small.yaml")), f"--out={out}"])
    raise ValueError(name)


COMMANDS = ("train", "resume", "evaluate", "predict", "check", "report", "export", "experiments")


@pytest.mark.parametrize("name", COMMANDS)
def test_second_command(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out folder"
    with only_one(out):
        assert command(name, out, tmp_path) == 2
        assert {path.name for path in out.iterdir()} <= {LOCK, "config.yaml"}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: out: {out} is in use by process {os.getpid()} on ") and "another --out" in line


def test_score_of_a_job_that_is_at_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = small.begin(tmp_path)
    begun.save()
    job = next(job for job in begun.jobs.values() if job.kind == "source")
    with only_one(job.folder):
        assert score.main([str(begun.folder), job.id]) == 2
        assert {path.name for path in job.folder.iterdir()} == {LOCK}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: out: {job.folder} is in use by process {os.getpid()} on ")
    assert "another --out" in line


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("export", "experiments")])
def test_command_that_fails_leaves_no_folder(name: str, tmp_path: Path) -> None:
    assert command(name, tmp_path / "a" / "out", tmp_path) == (1 if name == "check" else 2)
    assert name == "check" or not (tmp_path / "a").exists()
