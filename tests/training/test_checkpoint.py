"""Files that are either old or new, and checkpoints that say what is wrong with them."""

import errno
import io
import json
import os
import re
from pathlib import Path
from random import Random

import pytest
import torch
from torch import nn

from tmt.errors import CheckpointError, StateError
from tmt.runtime import files
from tmt.training import checkpoint
from tmt.training.log import MetricLines
from tmt.training.optimizer import adamw


def training(width: int = 4) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = nn.Linear(3, width)
    optimizer = adamw([{"name": "all", "params": list(module.parameters()), "lr": 0.1, "weight_decay": 0.0}])
    module(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return module, optimizer


def test_checkpoint_brings_everything_back(tmp_path: Path) -> None:
    module, optimizer = training()
    state = {"step": 7, "best": {"miou": 12.5, "iou": [None, 1.0]}}
    checkpoint.save(tmp_path / "c.pt", module, optimizer, state)
    other, blank = training()
    nn.init.zeros_(other.weight)
    assert checkpoint.load(tmp_path / "c.pt", other, blank) == state
    assert torch.equal(other.weight, module.weight)
    assert blank.state_dict()["state"][0]["exp_avg"].equal(optimizer.state_dict()["state"][0]["exp_avg"])


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_checkpoint_is_named(keep: float, tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    checkpoint.save(path, *training(), {})
    os.truncate(path, int(keep * path.stat().st_size) if keep < 1 else keep)
    with pytest.raises(StateError, match=r"c\.pt: cannot be read"):
        checkpoint.load(path, *training())


def test_changed_bytes_are_named_or_of_no_account(tmp_path: Path) -> None:
    """Wherever they are: in weights, which torch does not check, in what it reads as words and numbers, or between."""
    path, random = tmp_path / "c.pt", Random(0)
    module, optimizer = training()
    checkpoint.save(path, module, optimizer, {"step": 3})
    whole, refused = path.read_bytes(), 0
    for _ in range(150):
        spoilt = bytearray(whole)
        for _ in range(random.choice((1, 3, 20))):
            spoilt[random.randrange(len(whole))] = random.randrange(256)
        path.write_bytes(spoilt)
        other, blank = training()
        nn.init.zeros_(other.weight)
        try:
            assert checkpoint.load(path, other, blank) == {"step": 3} and torch.equal(other.weight, module.weight)
        except StateError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            refused += 1
    assert refused > 50


def test_too_little_memory_to_read_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told to remove a folder whose checkpoint is whole."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000 bytes.")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        checkpoint.load(tmp_path / "c.pt", *training())


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE, errno.ENOENT])
def test_what_the_system_refuses_is_no_damage(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, **_: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        checkpoint.load(tmp_path / "c.pt", *training())


def test_a_disk_that_fails_once_the_file_is_open_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system names no file where reading fails and opening did not."""

    class Failing(io.FileIO):
        def readinto(self, buffer: object) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def fail(name: object, *args: object, **options: object) -> object:
        return io.BufferedReader(Failing(path)) if name == path else opened(name, *args, **options)

    path, opened = tmp_path / "c.pt", open
    checkpoint.save(path, *training(), {})
    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(OSError, match=re.escape(os.strerror(errno.EIO))) as error:
        checkpoint.load(path, *training())
    assert error.value.filename == str(path)


def test_other_contents_are_named(tmp_path: Path) -> None:
    torch.save({"weights": torch.ones(1)}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of this version"):
        checkpoint.load(tmp_path / "c.pt", *training())


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save(Evil(), tmp_path / "c.pt")
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "c.pt", *training())
    assert not (tmp_path / "ran").exists()


def test_other_architecture_is_named(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c.pt", *training(width=4), {})
    with pytest.raises(CheckpointError, match=r"bias is \(4,\) there and \(5,\) in the model"):
        checkpoint.load(tmp_path / "c.pt", *training(width=5))


@pytest.mark.parametrize("where", ["weight", "optimizer.0.exp_avg", "memory.weight"])
def test_values_that_are_not_finite_are_named(where: str, tmp_path: Path) -> None:
    (module, optimizer), companion = training(), nn.Linear(3, 4)
    moments = optimizer.state[module.weight]["exp_avg"]
    places = {"weight": module.weight, "optimizer.0.exp_avg": moments, "memory.weight": companion.weight}
    places[where].data[0, 1] = float("nan")
    checkpoint.save(tmp_path / "c.pt", module, optimizer, {}, companion)
    with pytest.raises(CheckpointError, match=rf"c\.pt: weights must be finite, got {where} \(1 of 12 values\)"):
        checkpoint.load(tmp_path / "c.pt", *training())


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_text(path, "old")

    def fail_half_way(partial: Path) -> None:
        partial.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(path, fail_half_way)
    assert path.read_text() == "old"
    files.remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["file"]


def test_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("first", "second"):
        files.replace_folder(tmp_path / "model", lambda folder, name=name: (folder / name).write_text(name))
        assert os.listdir(tmp_path) == ["model"] and os.listdir(tmp_path / "model") == [name]


def test_metric_lines_after_the_step_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 2, "evaluation": {}}\n{"step": 3}\n{"st')
    lines = MetricLines(path, step=2)
    lines.write(step=3, loss=0.5)
    lines.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1},
        {"step": 2},
        {"step": 2, "evaluation": {}},
        {"step": 3, "loss": 0.5},
    ]
