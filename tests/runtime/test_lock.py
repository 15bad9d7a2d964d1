"""One command at a time writes to an output folder, and whatever ends its process ends its hold."""

import errno
import os
import signal
import subprocess
import sys
from importlib import reload
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tmt.errors import ConfigError
from tmt.runtime import lock
from tmt.runtime.distributed import World
from tmt.runtime.lock import LOCK, held, only_one, try_lock

HOLD = "import sys, os, time; from pathlib import Path; from tmt.runtime.lock import only_one; "


def start(folder: Path, body: str) -> subprocess.Popen:
    """A process that runs `body` while it holds a folder; returned once it has printed a line."""
    code = f"{HOLD}\nwith only_one(Path({str(folder)!r})):\n    {body}"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.first_line = process.stdout.readline().strip()  # type: ignore[attr-defined]
    return process


def test_held_by_another_process_until_it_is_killed(tmp_path: Path) -> None:
    process = start(tmp_path / "out", "print('in', flush=True); time.sleep(60)")
    with pytest.raises(ConfigError, match=rf"out is in use by process {process.pid} on .*; wait .*another --out"):
        only_one(tmp_path / "out").__enter__()
    process.kill()
    process.wait()
    assert (tmp_path / "out" / LOCK).exists()
    with only_one(tmp_path / "out"):
        assert held(tmp_path / "out" / LOCK)


def test_a_loader_that_outlives_its_trainer_does_not_hold(tmp_path: Path) -> None:
    body = "child = os.fork() or time.sleep(60); print(child, flush=True); os._exit(9)"
    process = start(tmp_path, body)
    assert process.wait() == 9
    try:
        with only_one(tmp_path):
            pass
    finally:
        os.kill(int(process.first_line), signal.SIGKILL)  # type: ignore[attr-defined]


WHO = (f"process {os.getpid()} on elsewhere", "process 1 on here", "", "\xff\xfe", "x" * 9999)


@pytest.mark.parametrize("who", WHO, ids=("own", "another", "empty", "binary", "long"))
def test_a_file_without_its_holder_keeps_nobody_out(tmp_path: Path, who: str) -> None:
    """Whatever it says: a process of another host, one whose number was given again, nothing."""
    (tmp_path / LOCK).write_text(who, encoding="latin-1")
    with only_one(tmp_path), pytest.raises(ConfigError, match=f"in use by process {os.getpid()} on"):
        only_one(tmp_path).__enter__()


def test_only_what_was_written_stays(tmp_path: Path) -> None:
    with only_one(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not os.listdir(tmp_path)
    with only_one(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    assert os.listdir(tmp_path / "a" / "b") == ["file"]


def test_a_lock_that_was_removed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening and locking, the holder before may have ended, and somebody else made the file anew."""
    really = lock._lock_or_raise

    def after_the_end_of_another(descriptor: int) -> None:
        (tmp_path / LOCK).unlink()
        really(descriptor)

    monkeypatch.setattr(lock, "_lock_or_raise", after_the_end_of_another)
    assert try_lock(tmp_path / LOCK) is None


def test_a_disk_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with only_one(tmp_path):
        assert "has no locks" in capsys.readouterr().err


def test_without_fcntl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows: a byte is locked that nobody reads, and a file is closed before it is removed."""
    taken: set[int] = set()

    def locking(descriptor: int, mode: int, count: int) -> None:
        inode = os.fstat(descriptor).st_ino
        if inode in taken:
            raise PermissionError(errno.EACCES, "Permission denied")
        assert os.lseek(descriptor, 0, os.SEEK_CUR) > 1 << 20 and count == 1
        taken.add(inode)

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    reload(lock)
    try:
        with lock.only_one(tmp_path), pytest.raises(ConfigError, match=f"process {os.getpid()} on"):
            lock.only_one(tmp_path).__enter__()
        assert not os.listdir(tmp_path)
    finally:
        monkeypatch.undo()
        reload(lock)


def test_a_folder_that_cannot_be_written() -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        only_one(Path("/dev/null/out")).__enter__()


def test_processes_that_work_together_are_one_holder(tmp_path: Path) -> None:
    main, other = World(torch.device("cpu")), World(torch.device("cpu"), rank=1)
    with main.only_one(tmp_path), other.only_one(tmp_path):
        assert held(tmp_path / LOCK)


def test_all_processes_leave_where_the_first_may_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with only_one(tmp_path), pytest.raises(ConfigError, match="in use by process"):
        World(torch.device("cpu")).only_one(tmp_path).__enter__()
    monkeypatch.setattr(World, "any", lambda self, here: True)
    with pytest.raises(ConfigError, match="the first process says why"):
        World(torch.device("cpu"), rank=1).only_one(tmp_path).__enter__()
