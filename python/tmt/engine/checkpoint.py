"""Checkpoints that are either the old one or the new one, whenever the process dies."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import nn
from torch.optim import Optimizer

from tmt.errors import CheckpointError

FORMAT = 1
TEMPORARY = ".partial-"


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
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
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8") and None)


def replace_folder(path: Path, fill: Callable[[Path], None]) -> None:
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


def save(
    path: Path, module: nn.Module, optimizer: Optimizer, state: dict[str, object], memory: nn.Module | None = None
) -> None:
    """Save weights, optimiser, the loop's state (plain numbers and strings) and the buffers of `memory`."""
    content = {
        "format": FORMAT,
        "state": state,
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "memory": {} if memory is None else memory.state_dict(),
    }
    write_atomically(path, lambda partial: torch.save(content, partial))


def load(path: Path, module: nn.Module, optimizer: Optimizer, memory: nn.Module | None = None) -> dict[str, object]:
    """Put a checkpoint into `module`, `optimizer` and `memory` and return the loop's state.

    Raises CheckpointError for a damaged file, another format, or weights of another architecture.
    """
    content = _read(path)
    _check_weights(path, module.state_dict(), content["module"])
    module.load_state_dict(content["module"])
    try:
        optimizer.load_state_dict(content["optimizer"])
    except ValueError as error:
        raise CheckpointError(
            f"{path}: its optimiser does not fit the model's parameter groups ({error}); use another --out"
        ) from error
    if memory is not None:
        _check_weights(path, memory.state_dict(), content.get("memory", {}))
        memory.load_state_dict(content["memory"])
    return content["state"]


def _read(path: Path) -> dict:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        reason = str(error).split(". ")[0] or type(error).__name__
        raise CheckpointError(f"{path}: cannot be read ({reason}); remove its folder to train anew") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is not a checkpoint of this version (format {FORMAT}); use another --out")
    return content


def _check_weights(path: Path, expected: dict, found: dict) -> None:
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
    other = [name for name in expected.keys() & found.keys() if expected[name].shape != found[name].shape]
    if not (missing or extra or other):
        return
    name = sorted(missing | extra | set(other))[0]
    shapes = [tuple(weights[name].shape) if name in weights else "absent" for weights in (expected, found)]
    raise CheckpointError(
        f"{path}: is of another architecture: {name} is {shapes[1]} there and {shapes[0]} in the model "
        f"({len(missing) + len(extra) + len(other)} such weights); use the settings it was made with, or another --out"
    )
