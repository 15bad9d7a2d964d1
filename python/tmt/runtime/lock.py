"""Locks that end with the processes that hold them, however these end.

The system keeps them and not the file's content, so that neither a file that a dead process left nor a process number
that is given again keeps anybody out, and containers that share a disk of one machine see each other. Between machines
they hold as far as the file system carries them: NFS does, unless it is mounted with local locks.
"""

import errno
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tmt.errors import ConfigError
from tmt.runtime.files import check_writable

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    fcntl = None

LOCK = ".lock"
"""The file in an output folder that is locked while a command writes there."""
TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
FAR = 1 << 30
"""The byte that Windows locks: nobody could read a locked one, and the first ones name the holder."""
PATIENCE = 0.5
"""Seconds to try again: `held` takes a free lock for a moment."""
POLL_SECONDS = 0.1
_not_for_children: set[int] = set()


def held(path: Path) -> bool:
    """Whether some process holds the lock on a file."""
    if not path.exists():
        return False
    descriptor = try_lock(path)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def try_lock(path: Path) -> int | None:
    """The descriptor of the locked file; None where another process holds it. Children that inherit it hold it too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if _lock(descriptor, path) and _is_at(descriptor, path):
            return descriptor
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _lock(descriptor: int, path: Path) -> bool:
    """Lock an open file; False where another process has. Where the file system has no locks, all may go on, warned."""
    try:
        _lock_or_raise(descriptor)
    except OSError as error:
        if error.errno in TAKEN:
            return False
        if error.errno not in NO_LOCKS:
            raise
        print(f"warning: {path.parent}: its disk has no locks; let no other process write there", file=sys.stderr)
    return True


def _lock_or_raise(descriptor: int) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        os.lseek(descriptor, FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        os.lseek(descriptor, 0, os.SEEK_SET)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still is the one at `path`: its holder removes it, with the lock, at its end."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def holder(path: Path) -> str:
    """Who holds the lock on a file, as far as the file says."""
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8").strip() or "another process"
    return "another process"


@contextmanager
def locked(path: Path, patience: float, waits_for: Callable[[str], object] | None = None) -> Iterator[bool]:
    """Hold the lock on a file, which is removed at the end; whether that could be had within so many seconds.

    Where it must wait, `waits_for` is told once who holds it. Processes forked meanwhile do not hold it.
    """
    descriptor = _try_for(path, patience, waits_for)
    if descriptor is None:
        yield False
        return
    _not_for_children.add(descriptor)
    try:
        with suppress(OSError):  # a full disk: then nobody is told who it is
            os.truncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield True
    finally:
        _release(descriptor, path)


def _try_for(path: Path, seconds: float, waits_for: Callable[[str], object] | None) -> int | None:
    end = time.monotonic() + seconds
    while (descriptor := _try_again(path)) is None and time.monotonic() < end:
        time.sleep(POLL_SECONDS)  # so that its holder has written who it is
        if waits_for is not None:
            waits_for(holder(path))
            waits_for = None
    return descriptor


def _try_again(path: Path) -> int | None:
    """`try_lock`, where a process that ends may remove the folder at the same time."""
    try:
        return try_lock(path)
    except FileNotFoundError:
        return None


def _release(descriptor: int, path: Path) -> None:
    _not_for_children.discard(descriptor)
    if fcntl is None:
        os.close(descriptor)  # Windows removes no open file
    with suppress(OSError):
        path.unlink()
    if fcntl is not None:
        os.close(descriptor)


def _close_in_child() -> None:
    """A process that loads data may outlive a trainer that was killed, and must not hold its lock."""
    for descriptor in _not_for_children:
        with suppress(OSError):
            os.close(descriptor)
    _not_for_children.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def only_one(folder: Path, meanwhile: str = "") -> Iterator[None]:
    """Hold an output folder; one that was made for that is removed where nothing has been written to it.

    Raises ConfigError for a folder that cannot be written and, with the process that does, where another one holds it;
    `meanwhile` says what else may be done then.
    """
    check_writable(folder)
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        with _locked_folder(folder, meanwhile):
            yield
    finally:
        with suppress(OSError):  # up to the first that holds something
            for one in made:
                one.rmdir()


@contextmanager
def _locked_folder(folder: Path, meanwhile: str) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            mine = stack.enter_context(locked(folder / LOCK, PATIENCE))
        except OSError as error:
            raise ConfigError(f"out: {folder} cannot be written ({error.strerror}); choose another --out") from error
        if not mine:
            raise ConfigError(
                f"out: {folder} is in use by {holder(folder / LOCK)}; wait until it has ended, end it, or use another "
                f"--out{meanwhile}"
            )
        yield


def holds_files(folder: Path) -> bool:
    """Whether an output folder holds anything but its lock."""
    return folder.is_dir() and any(path.name != LOCK for path in folder.iterdir())


def ignores_case(folder: Path) -> bool:
    """Whether the disk of a folder that is held takes `a` and `A` for the same name, as those of macOS and Windows."""
    return (folder / LOCK.upper()).exists()


def in_use(folder: Path) -> bool:
    """Whether a command writes to an output folder."""
    return held(folder / LOCK)
