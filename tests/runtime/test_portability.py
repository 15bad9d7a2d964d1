"""What other systems lack, taken away: Windows opens no folders and has no process groups, macOS no affinity; neither
forks the processes that load data."""

import ast
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from tmt.cli import predict
from tmt.data import Augment, loader, open_dataset
from tmt.data.check import check_dataset
from tmt.data.rare import class_counts
from tmt.runtime import files, lock
from tmt.runtime.processors import processors
from tmt.runtime.signals import listen
from tmt.studies.attempts import reason
from tmt.studies.process import JobProcess

ROOT = Path(__file__).parents[2]
TEXT_METHODS = ("read_text", "write_text")


def opens_text(call: ast.Call) -> bool:
    """Whether a call opens a text file: a method such as `path.open("a")`, or the builtin without "b" in its mode."""
    if isinstance(call.func, ast.Attribute) and call.func.attr in TEXT_METHODS:
        return True
    builtin = isinstance(call.func, ast.Name) and call.func.id == "open"
    method = isinstance(call.func, ast.Attribute) and call.func.attr == "open"
    modes = [ast.literal_eval(one) for one in call.args[1 if builtin else 0 :] if isinstance(one, ast.Constant)]
    modes = [mode for mode in modes if isinstance(mode, str)]
    mode = modes[0] if modes else "r"
    return (builtin or (method and (bool(modes) or not call.args))) and set(mode) <= set("rwax+t")


def without_encoding(path: Path) -> list[int]:
    """The lines of a file's calls that leave the encoding to the system: Windows does not take UTF-8."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return [c.lineno for c in calls if opens_text(c) and not any(word.arg == "encoding" for word in c.keywords)]


def test_every_text_file_has_an_encoding() -> None:
    paths = [*(ROOT / "python" / "tmt").rglob("*.py"), *(ROOT / "tmt_ext").rglob("*.py"), ROOT / "setup.py"]
    assert not {str(path): lines for path in paths if (lines := without_encoding(path))}


@pytest.mark.parametrize(
    "text", ["p.read_text()", "p.open(newline='')", "open(p)", "open(p, 'w')", "p.open('a')", "p.write_text('x')"]
)
def test_the_search_finds(text: str, tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text(f"{text}\nImage.open(p)\np.open('rb')\nopen(p, 'r', encoding='utf-8')\n")
    assert without_encoding(tmp_path / "file.py") == [1]


def test_folders_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows; and files are flushed only where they may be written."""
    really = os.open

    def open_files_only(path: Path, flags: int, *rest: int) -> int:
        if os.path.isdir(path) or not flags & (os.O_RDWR | os.O_WRONLY):
            raise PermissionError(13, "Permission denied", str(path))
        return really(path, flags, *rest)

    monkeypatch.setattr(os, "open", open_files_only)
    files.write_text(tmp_path / "file", "text")
    files.replace_folder(tmp_path / "model", lambda folder: (folder / "part").mkdir())
    assert sorted(os.listdir(tmp_path)) == ["file", "model"]


def test_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert processors() == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processors() == 1


def test_without_process_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows passes no descriptors on, and ends single processes."""
    popen = subprocess.Popen

    def of_windows(*words: object, pass_fds: tuple[int, ...], **options: object) -> subprocess.Popen:
        assert not pass_fds
        return popen(*words, **options)  # type: ignore[call-overload]

    monkeypatch.delattr(os, "killpg")
    monkeypatch.setattr("tmt.studies.process.os.name", "nt")
    monkeypatch.setattr(subprocess, "Popen", of_windows)
    process = JobProcess(tmp_path, [[sys.executable, "-c", "import time; time.sleep(60)"]], {}, lock=0)
    process.poll()
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_without_sigkill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signal, "SIGKILL")
    assert reason(1, "error: no such folder\n") == "no such folder"


@pytest.fixture
def loads_in_spawned_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a loader's process would be sent is sent to none, but pickled and read again."""
    really = torch.utils.data.DataLoader

    def pickled(dataset: object, **options: object) -> torch.utils.data.DataLoader:
        assert options.pop("num_workers") == 1
        pickle.dumps({name: value for name, value in options.items() if name != "generator"})
        return really(pickle.loads(pickle.dumps(dataset)), **options)  # type: ignore[arg-type]

    for module in ("loader", "rare", "check"):
        monkeypatch.setattr(f"tmt.data.{module}.DataLoader", pickled)


def test_data_is_loaded_without_fork(made: dict[str, Path], loads_in_spawned_processes: None) -> None:
    dataset = open_dataset("gtav", made["gtav"], "train")
    augment = Augment(crop=(32, 64))
    (batch,) = loader.train_batches(dataset, augment, 4, seed=0, workers=1)
    expected = loader.collate([loader.TrainSamples(dataset, augment, 0).sample(position) for position in range(4)])
    assert batch["names"] == expected["names"] and torch.equal(batch["labels"], expected["labels"].long())
    assert class_counts(dataset, workers=1, progress=False).sum(axis=1).all()
    assert not check_dataset("gtav", made["gtav"], workers=1, progress=False).faults


def test_output_in_a_code_page(tmp_path: Path) -> None:
    """Windows writes to a file in the code page of the country, which lacks most characters of file names."""
    out = tmp_path / "街.png"
    command = [sys.executable, "-m", "tmt.data", "picture", f"--out={out}", "--scenes=1"]
    run = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "cp1252"})
    assert run.returncode == 0, run.stderr
    assert run.stdout.decode("cp1252").rstrip().endswith("\\u8857.png") and out.is_file()


def in_thread(action: Callable[[], None]) -> list[BaseException]:
    """What an action raises in another thread than the main one."""
    raised: list[BaseException] = []

    def act() -> None:
        try:
            action()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    return raised


def test_signals_in_another_thread() -> None:
    """As a notebook's server or a service may call a training: signals are the main thread's business."""
    before = signal.getsignal(signal.SIGTERM)

    def train() -> None:
        with listen() as stop:
            assert not stop.asked() and signal.getsignal(signal.SIGTERM) is before

    assert not in_thread(train)


def test_names_that_differ_in_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for name in ("a.png", "A.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    argv = [str(tmp_path / "model"), str(tmp_path), f"--out={tmp_path / 'out'}"]
    monkeypatch.setattr(lock, "ignores_case", lambda folder: True)
    assert predict.main(argv) == 2
    assert "must differ in more than upper and lower case" in capsys.readouterr().err
    monkeypatch.undo()
    assert predict.main(argv) == 2 and "config.json: no such file" in capsys.readouterr().err


def test_disk_that_ignores_case(tmp_path: Path) -> None:
    with lock.only_one(tmp_path):
        here = (tmp_path / ".LoCk").exists()
        assert lock.ignores_case(tmp_path) == here
        if not here:
            os.link(tmp_path / ".lock", tmp_path / ".LOCK")
        assert lock.ignores_case(tmp_path)
