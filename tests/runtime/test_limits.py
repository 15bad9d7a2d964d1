"""Full disks and too little memory are known by whichever error a library raises, and leave old files whole."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import kornia_rs
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.helpers.small_disk import no_file_above
from tmt.cli.command import command
from tmt.runtime.files import replace_folder, write_atomically, write_text
from tmt.runtime.limits import SHARED, lack_of_memory, lack_of_room
from tmt.training import checkpoint

ROOM = 20_000
PIXELS = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
WEIGHTS = {"weights": torch.zeros(100_000)}


def write_checkpoint(path: Path) -> None:
    checkpoint._write(WEIGHTS, path)


WRITERS: dict[str, Callable[[Path], object]] = {
    "torch": write_checkpoint,
    "safetensors": lambda path: save_file(WEIGHTS, path),
    "png": lambda path: Image.fromarray(PIXELS).save(path, format="PNG"),
    "jpeg": lambda path: Image.fromarray(PIXELS).save(path, format="JPEG", quality=100),
    "16-bit png": lambda path: kornia_rs.io.write_image_png_u16(str(path), PIXELS.astype(np.uint16) * 257, "rgb"),
    "text": lambda path: path.write_text("x" * 2 * ROOM, encoding="utf-8"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_no_room_for_a_file(name: str, tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    with no_file_above(ROOM), pytest.raises(OSError) as caught:
        write_atomically(tmp_path / "file", WRITERS[name])
    assert caught.value.filename == str(tmp_path / "file") and caught.value.errno == errno.EFBIG
    assert lack_of_room(caught.value) == f"{tmp_path / 'file'}: File too large"
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize("name", ["safetensors", "text"])
def test_no_room_for_a_folder(name: str, tmp_path: Path) -> None:
    replace_folder(tmp_path / "model", lambda folder: (folder / "old").touch())
    with no_file_above(ROOM), pytest.raises(OSError) as caught:
        replace_folder(tmp_path / "model", lambda folder: WRITERS[name](folder / "new"))
    assert caught.value.filename == str(tmp_path / "model")
    assert os.listdir(tmp_path) == ["model"] and os.listdir(tmp_path / "model") == ["old"]


def too_much_for_torch() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def too_much_for_numpy() -> None:
    np.empty(1 << 60, dtype=np.uint8)


def raised(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


NO_MEMORY = {
    "torch": too_much_for_torch,
    "numpy": too_much_for_numpy,
    "python": raised(MemoryError()),
    "cuda": raised(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has ...")),
    "cublas": raised(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
    "extension": raised(RuntimeError("std::bad_alloc")),
    "fork": raised(OSError(errno.ENOMEM, "Cannot allocate memory")),
    "loader": raised(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")),
}


@pytest.mark.parametrize("name", NO_MEMORY)
def test_too_little_memory(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(lambda _: NO_MEMORY[name](), [], "take a smaller window") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory") and line.endswith("; take a smaller window")
    amounts = {"torch": "1152921504606846976 bytes", "numpy": "1.00 EiB", "cuda": "20.00 MiB"}
    assert line.partition("(")[2].partition(" more were asked for)")[0] == amounts.get(name, "")


@pytest.mark.parametrize(
    "text",
    [
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
        "shared memory. Please try to raise your shared memory limit.",
        "unable to allocate shared memory(shm) for file </torch_7_1>: No space left on device (28)",
        "unable to open shared memory object </torch_7_1> in read-write mode: Too many open files (24)",
    ],
)
def test_too_little_shared_memory(text: str) -> None:
    assert lack_of_memory(RuntimeError(text)) == SHARED


@pytest.mark.parametrize(
    "error",
    [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError("too much shared memory for a block"),
     FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), KeyError("memory")],
)  # fmt: skip
def test_other_errors_are_no_shortage(error: Exception) -> None:
    assert lack_of_memory(error) is None and lack_of_room(error) is None


def test_where_messages_go_is_full_too(monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "w", buffering=1, encoding="utf-8")  # noqa: SIM115
    monkeypatch.setattr("sys.stderr", full)
    assert command(lambda _: raised(OSError(errno.ENOSPC, "No space left on device"))(), []) == 2
