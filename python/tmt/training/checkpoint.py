"""Checkpoints: what a stage resumes from."""

from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tmt.errors import StateError
from tmt.runtime.files import naming, write_atomically
from tmt.runtime.limits import lack_of_memory, system_error
from tmt.training.finite import check_weights

FORMAT = 1


def save(
    path: Path, module: nn.Module, optimizer: Optimizer, state: dict[str, Any], companion: nn.Module | None = None
) -> None:
    """Save weights, optimiser, the loop's state (plain numbers and strings) and the state of its companion."""
    content = {
        "format": FORMAT,
        "state": state,
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "memory": {} if companion is None else companion.state_dict(),
    }
    write_atomically(path, lambda partial: _write(content, partial))


def _write(content: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:  # given a path, torch does not say why it cannot write
        torch.save(content, file)


def load(path: Path, module: nn.Module, optimizer: Optimizer, companion: nn.Module | None = None) -> dict[str, Any]:
    """Put a checkpoint into `module`, `optimizer` and `companion` and return the loop's state.

    Raises StateError for a damaged file, another format, and weights of another architecture or not finite.
    """
    content = _read(path)
    _check_weights(path, module.state_dict(), content["module"])
    check_weights(path, _tensors(content), "remove its folder to train anew")
    module.load_state_dict(content["module"])
    try:
        optimizer.load_state_dict(content["optimizer"])
    except ValueError as error:
        raise StateError(
            f"{path}: its optimiser does not fit the model's parameter groups ({error}); use another --out"
        ) from error
    if companion is not None:
        _check_weights(path, companion.state_dict(), content.get("memory", {}))
        companion.load_state_dict(content["memory"])
    return content["state"]


def _read(path: Path) -> dict:
    try:
        with naming(path):
            content = torch.load(path, map_location="cpu", weights_only=True)
            _check_sums(path)
    except Exception as error:  # of any kind, as damaged bytes happen to be read
        if lack_of_memory(error) or system_error(error):  # the file may be whole, and its folder worth keeping
            raise
        reason = str(error).split(". ")[0] or type(error).__name__
        raise StateError(f"{path}: cannot be read ({reason}); remove its folder to train anew") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise StateError(f"{path}: is not a checkpoint of this version (format {FORMAT}); use another --out")
    return content


def _check_sums(path: Path) -> None:
    """Raises ValueError for a part of a checkpoint that is not as it was written; torch reads weights unchecked."""
    with ZipFile(path) as parts:
        damaged = parts.testzip()
    if damaged is not None:
        raise ValueError(f"its part {damaged} is damaged")


def _tensors(content: dict[str, Any]) -> dict[str, Tensor]:
    """A checkpoint's weights, and what optimiser and companion remember, by name."""
    moments = {
        f"optimizer.{weight}.{name}": value
        for weight, memory in content["optimizer"].get("state", {}).items()
        for name, value in memory.items()
        if isinstance(value, Tensor)
    }
    memory = {f"memory.{name}": value for name, value in content.get("memory", {}).items()}
    return {**content["module"], **moments, **memory}


def _check_weights(path: Path, expected: dict, found: dict) -> None:
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
    other = [name for name in expected.keys() & found.keys() if expected[name].shape != found[name].shape]
    if not (missing or extra or other):
        return
    name = sorted(missing | extra | set(other))[0]
    shapes = [tuple(weights[name].shape) if name in weights else "absent" for weights in (expected, found)]
    raise StateError(
        f"{path}: is of another architecture: {name} is {shapes[1]} there and {shapes[0]} in the model "
        f"({len(missing) + len(extra) + len(other)} such weights); use the settings it was made with, or another --out"
    )
