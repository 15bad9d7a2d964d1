"""Several processes that draw the same folder of scenes, and what one leaves that was killed."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tmt.cli.data import main
from tmt.data.manifest import MANIFEST
from tmt.errors import DataError
from tmt.runtime import lock
from tmt.synthetic import make, writer

RECIPE = {"train": 2, "val": 1, "size": (16, 16), "progress": False}


def slowly(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Let drawing take a moment; the folders that are drawn into."""
    drawn, write = [], writer._write

    def slow(root: Path, *rest: object) -> None:
        drawn.append(root)
        time.sleep(0.3)
        write(root, *rest)

    monkeypatch.setattr(writer, "_write", slow)
    return drawn


def test_the_second_takes_what_the_first_has_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    drawn = slowly(monkeypatch)
    with ThreadPoolExecutor(3) as pool:
        roots = [one.result() for one in [pool.submit(make, "gtav", tmp_path / "x", **RECIPE) for _ in range(3)]]
    assert roots == [tmp_path / "x"] * 3 and len(drawn) == 1 and os.listdir(tmp_path) == ["x"]
    assert f"x: waiting for process {os.getpid()} on" in capsys.readouterr().err


def test_the_second_wants_other_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = slowly(monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(make, "gtav", tmp_path / "x", **RECIPE, seed=seed) for seed in (0, 1)]
        errors = [one.exception() for one in both]
    (error,) = [error for error in errors if error]
    assert isinstance(error, DataError) and "other content" in str(error) and len(drawn) == 1


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from tmt.synthetic import make, writer\n"
        "draw = writer.write_scene\n"
        "def die(*rest): draw(*rest); os.kill(os.getpid(), 9)\n"
        "writer.write_scene = die\n"
        f"make('gtav', {str(tmp_path / 'x')!r}, 2, 1, (16, 16), progress=False)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    (part,) = tmp_path.glob(".x.part-*")
    mine = [tmp_path / name for name in (".x.part-mine", ".xy.part-1", "x.part-1")]
    for folder in mine:
        folder.mkdir()
    make("gtav", tmp_path / "x", **RECIPE)
    assert not part.exists() and all(folder.is_dir() for folder in mine)
    assert sorted(os.listdir(tmp_path)) == sorted(["x", *(folder.name for folder in mine)])


def test_part_of_a_process_at_work_stays(tmp_path: Path) -> None:
    part = tmp_path / ".x.part-1"
    part.mkdir()
    with ThreadPoolExecutor(1) as pool, lock.locked(tmp_path / ".x.lock", 0):
        waiting = pool.submit(make, "gtav", tmp_path / "x", **RECIPE)
        time.sleep(0.3)
        assert part.exists() and not waiting.done()
    assert waiting.result() == tmp_path / "x" and not part.exists()


def test_where_locks_do_not_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine has drawn the same folder meanwhile, unseen: it is taken as it is."""
    write = writer._write

    def beaten(root: Path, *rest: object) -> None:
        write(root, *rest)
        monkeypatch.setattr(writer, "_write", write)
        (tmp_path / "x").mkdir()
        write(tmp_path / "x", *rest)

    monkeypatch.setattr(writer, "_write", beaten)
    assert make("gtav", tmp_path / "x", **RECIPE) == tmp_path / "x"
    assert (tmp_path / "x" / MANIFEST).is_file() and os.listdir(tmp_path) == ["x"]


def test_folders_of_scenes_that_cannot_be_written_to_are_read(tmp_path: Path, monkeypatch) -> None:
    """Shared data: no lock is asked for where the scenes are there."""
    make("gtav", tmp_path / "x", **RECIPE)
    monkeypatch.setattr(writer, "locked", lambda *_: pytest.fail("locked"))
    sizes = ["--train=2", "--val=1", "--size", "16", "16"]
    assert main(["make", "--dataset=gtav", f"--root={tmp_path / 'x'}", *sizes]) == 0
