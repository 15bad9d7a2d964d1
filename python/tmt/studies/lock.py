"""Locks that end with the processes that hold them, however these end."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tmt.errors import ConfigError


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
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold a study's folder. Raises ConfigError, with the process that does, where another one holds it."""
    path = folder / ".lock"
    try:
        descriptor = try_lock(path)
    except OSError as error:
        raise ConfigError(f"out: {folder} cannot be written ({error.strerror}); choose another --out") from error
    if descriptor is None:
        raise ConfigError(
            f"out: {folder} is in use by {path.read_text().strip() or 'another process'}; wait until it has ended, end "
            "it, or use another --out (--list works meanwhile)"
        )
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        os.close(descriptor)
