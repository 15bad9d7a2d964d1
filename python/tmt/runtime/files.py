"""Files and folders that are either the old ones or the new ones, whenever the process dies."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tmt.errors import ConfigError

TEMPORARY = ".partial-"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk, and rename it to `path`.

    An OSError while writing, such as that of a full disk, names the file.
    """
    partial = path.with_name(f"{TEMPORARY}{path.name}")
    try:
        write(partial)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    _flush(partial)
    os.replace(partial, path)
    _flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def replace_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write a temporary folder beside `path` and put it in the place of `path`."""
    remove_leftovers(path.parent)
    partial = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=path.parent))
    partial.chmod(0o755)
    fill(partial)
    for file in partial.rglob("*"):
        _flush(file)
    if path.exists():
        os.replace(path, partial.with_name(f"{partial.name}-old"))
    os.replace(partial, path)
    _flush(path.parent)
    remove_leftovers(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove what an interrupted write left in a folder."""
    for path in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
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


def check_writable(folder: Path) -> None:
    """Raise ConfigError unless files can be made in `folder`, or the folder itself where it is missing."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"out: {folder} cannot be written ({place} is not a writable folder); choose another --out")
