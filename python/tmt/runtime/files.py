"""Files and folders that are either the old ones or the new ones, whenever the process dies."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tmt.errors import CheckpointError, ConfigError, TMTError
from tmt.runtime.limits import system_error

TEMPORARY = ".partial-"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk, and rename it to `path`.

    A write that fails leaves nothing; an error of the disk names the file.
    """
    partial = path.with_name(f"{TEMPORARY}{path.name}")
    with naming(path), _removed_on_failure(partial):
        write(partial)
        _flush(partial)
        os.replace(partial, path)
    _flush_folder(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raises errors of the disk, which libraries report in their own ways, as OSError with the name of `path`."""
    try:
        yield
    except Exception as error:
        found = system_error(error)
        if found is None or isinstance(error, TMTError):
            raise
        raise OSError(found.errno, found.strerror, str(path)) from error


@contextmanager
def _removed_on_failure(partial: Path) -> Iterator[None]:
    """Gives the room back that half a file or folder takes."""
    try:
        yield
    except Exception:
        with suppress(OSError):
            _remove(partial)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def replace_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write a temporary folder beside `path` and put it in the place of `path`."""
    remove_leftovers(path.parent)
    partial = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=path.parent))
    partial.chmod(0o755)
    with naming(path), _removed_on_failure(partial):
        fill(partial)
        for file in partial.rglob("*"):
            _flush(file)
    if path.exists():
        os.replace(path, partial.with_name(f"{partial.name}-old"))
    os.replace(partial, path)
    _flush_folder(path.parent)
    remove_leftovers(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove what an interrupted write left in a folder."""
    for path in folder.glob(f"{TEMPORARY}*"):
        _remove(path)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _flush(path: Path) -> None:
    """Flush a file, or a folder's list of files, to the disk."""
    if path.is_dir():
        return _flush_folder(path)
    descriptor = os.open(path, os.O_RDWR)  # Windows flushes only what may be written
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    with suppress(OSError):  # Windows opens no folder, and some file systems flush none
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict:
    """Read JSON that `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_record(path: Path, mend: str) -> dict[str, Any]:
    """Read a JSON object that `write_json` wrote; raises CheckpointError, ending with `mend`, where there is none."""
    try:
        content = read_json(path)
    except ValueError as error:
        raise CheckpointError(f"{path}: is damaged ({error}); {mend}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: is damaged (a JSON object, got {type(content).__name__}); {mend}")
    return content


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file that has grown line by line, which may be missing.

    A last line without an end is what a process left that died as it wrote: it does not count. Raises CheckpointError
    for any other line that is no JSON object.
    """
    if not path.exists():
        return []
    *whole, _cut = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [_object(line, path, number) for number, line in enumerate(whole, 1) if line]


def _object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}:{number}: must be a JSON object, got {line[:60]!r}; remove this line")
    return found


def check_writable(folder: Path) -> None:
    """Raise ConfigError unless files can be made in `folder`, or the folder itself where it is missing."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"out: {folder} cannot be written ({place} is not a writable folder); choose another --out")
