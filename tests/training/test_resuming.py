"""Which settings a run may be resumed with: the same data by another path, and more steps where that means the same."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.helpers import runs
from tmt.cli import train
from tmt.errors import ConfigError
from tmt.settings import Config, arguments
from tmt.training.resuming import check_resume, lengthen

Capture = pytest.CaptureFixture[str]


def config_of(data: str, *more: str) -> Config:
    return arguments.parse([f"--data.source_root={data}", "--data.target_root=target", *more])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that was started in tmp_path/here on its folder `data`."""
    for name in ("here/data", "here/target", "elsewhere/data", "run"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "run" / "config.yaml").write_text(arguments.to_yaml(config_of("data")), encoding="utf-8")
    record = {"directory": str(tmp_path / "here")}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return tmp_path / "run"


@pytest.mark.parametrize("path", ["./data/", "../here/data", "{here}//data/.", "link"])
def test_same_data_by_another_path(path: str, run: Path) -> None:
    os.symlink("data", "link")
    check_resume(config_of(path.format(here=os.getcwd())), run)


def test_same_data_from_another_directory(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    check_resume(config_of("here/data", "--data.target_root=here/target"), run)


def test_other_data_of_the_same_name(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.parent / "elsewhere" / "target").mkdir()
    monkeypatch.chdir(run.parent / "elsewhere")
    with pytest.raises(ConfigError, match=r"got data.source_root: data -> /.*/elsewhere/data; data.target_root"):
        check_resume(config_of("data"), run)


def test_run_that_was_moved_with_its_data(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move(run.parent / "here", run.parent / "there")
    monkeypatch.chdir(run.parent / "there")
    check_resume(config_of("data"), run)


def test_run_that_does_not_say_where_it_was_started(run: Path) -> None:
    (run / "run.json").write_text("{}", encoding="utf-8")
    check_resume(config_of(os.path.abspath("data")), run)
    with pytest.raises(ConfigError, match="data.source_root: data -> /.*/target"):
        check_resume(config_of("target"), run)


@pytest.mark.parametrize(
    ("setting", "begun", "says"),
    [
        ("source.steps", "source", r"falls to 0 over all steps.*another --out.*\(--model.base .*run/source/model\)"),
        ("target.steps", "full", r"falls to 0 over all steps.*\(--source_model .*run/full/model\)"),
        ("estimator.steps", "tmt", "tmt has been trained from it"),
    ],
)
def test_more_steps_would_be_another_training(setting: str, begun: str, says: str, run: Path) -> None:
    (run / begun).mkdir()
    with pytest.raises(ConfigError, match=rf"resume: {setting} must stay \d+, got 30000: .*{says}"):
        check_resume(config_of("data", f"--{setting}=30000"), run)


def test_fewer_steps_are_another_setting(run: Path) -> None:
    with pytest.raises(ConfigError, match="got estimator.steps: 2000 -> 10; repeat its command"):
        check_resume(config_of("data", "--estimator.steps=10"), run)


def test_share_of_steps(run: Path) -> None:
    """At a constant rate, too, the metric's phase of LEEP would have been a longer one."""
    constant = "--target.power=0"
    (run / "config.yaml").write_text(arguments.to_yaml(config_of("data", constant)), encoding="utf-8")
    check_resume(config_of("data", constant, "--target.steps=30000"), run)
    (run / "leep").mkdir()
    with pytest.raises(ConfigError, match="the first part of leep is a share of all steps"):
        check_resume(config_of("data", constant, "--target.steps=30000"), run)


def test_stages_that_get_more_steps_are_not_finished(run: Path) -> None:
    for stage in ("source", "estimator"):
        (run / stage).mkdir()
        (run / stage / "done.json").touch()
    lengthen(config_of(os.path.abspath("data"), "--estimator.steps=3000"), run)
    assert (run / "source" / "done.json").exists() and not (run / "estimator" / "done.json").exists()
    assert arguments.from_yaml(run / "config.yaml") == config_of("data", "--estimator.steps=3000")
    check_resume(config_of("data", "--estimator.steps=3000"), run)


def test_longer_training_is_the_one_of_so_many_steps(
    finished: Path, tmp_path: Path, source_root: Path, target_root: Path, capsys: Capture
) -> None:
    """An estimator that gets more steps after its end has the weights of one that had them from the beginning."""
    weights = []
    for name, counts in (("whole", (5,)), ("longer", (3, 5))):
        for i, steps in enumerate(counts):
            more = ("--stages=estimator", f"--source_model={finished}/source/model", f"--estimator.steps={steps}")
            again = ("--resume",) if i else ()
            argv = runs.arguments(tmp_path / name, source_root, target_root, *more, *again, steps=6)
            assert train.main(argv) == 0
        weights.append((tmp_path / name / "estimator" / "estimator.safetensors").read_bytes())
    assert weights[0] == weights[1] and "estimator: resumed after step 3 of 5" in capsys.readouterr().out
