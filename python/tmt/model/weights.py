"""Files of weights: whether they can be read, and whether their numbers can be used, said before a model is built."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tmt.errors import CheckpointError

NAMES = ("model.safetensors", "pytorch_model.bin")
"""In the order in which transformers looks for them; a name with `.index.json` lists the files of a model in parts."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool)
"""Integers and booleans are counts and indices; weights of fewer bits mean nothing without their scales."""
GIT_LFS = b"version https://git-lfs"
AGAIN = "copy or download it again"


def check_weights(folder: Path) -> None:
    """Raise CheckpointError, naming the file, where a model's weights are missing, damaged or not finite."""
    for file in weight_files(folder):
        check_tensors(file, read_tensors(file))


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers would load from a folder; raises CheckpointError where one is missing."""
    for name in NAMES:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _parts(index)
    raise CheckpointError(
        f"{folder}: must hold {' or '.join(NAMES)}, got neither; give the folder of a model saved with save_pretrained"
    )


def _parts(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        files = sorted(index.with_name(name) for name in names)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not an index of weights: {_reason(error)}; {AGAIN}") from error
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file}: no such file, but {index.name} names it; copy every file of the model")
    return files


def read_tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a file; raises CheckpointError where it cannot be read."""
    with file.open("rb") as opened:
        if opened.read(len(GIT_LFS)) == GIT_LFS:
            raise CheckpointError(f"{file}: must hold weights, got a pointer of Git LFS; run git lfs pull")
    return _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)


def _read_safetensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # is no dictionary
                yield name, opened.get_tensor(name)
    except (SafetensorError, OSError, ValueError) as error:
        size = file.stat().st_size
        raise CheckpointError(f"{file}: damaged, {_reason(error)}, got {size} bytes; {AGAIN}") from error


def _read_pickle(file: Path) -> Iterator[tuple[str, Tensor]]:
    size = file.stat().st_size
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise CheckpointError(
            f"{file}: must be a state dict that torch.load reads with weights_only=True, got other objects or a "
            f"damaged file of {size} bytes; save the model with save_pretrained"
        ) from error
    except (EOFError, OSError, RuntimeError, KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"{file}: damaged, {_reason(error)}, got {size} bytes; {AGAIN}") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(
            f"{file}: must be a dictionary of tensors, got {_kind(content)}; save the model with save_pretrained"
        )
    yield from content.items()


def _kind(content: object) -> str:
    if isinstance(content, dict):
        return f"a dictionary of {', '.join(sorted({type(value).__name__ for value in content.values()}))}"
    return type(content).__name__


def check_tensors(file: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Raise CheckpointError for the first tensor whose values are no weights."""
    for name, tensor in tensors:
        if tensor.dtype not in DTYPES:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(f"{file}: {name} must be floating, got {kind}; save the model without quantisation")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            count = int((~tensor.isfinite()).sum())
            raise CheckpointError(
                f"{file}: {name} must be finite, got {count} of {tensor.numel()} values that are not; "
                "take an earlier checkpoint"
            )


def _reason(error: Exception) -> str:
    """An error's first line that says something, without a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
