"""What a run has put on record and a disk has spoilt: one line that names file and mend on --resume, no traceback."""

import json
import shutil
from pathlib import Path

import pytest

from tests.helpers import runs
from tmt.cli import train
from tmt.errors import CheckpointError
from tmt.runtime.files import read_lines, read_record
from tmt.training.log import MetricLines

Capture = pytest.CaptureFixture[str]
SPOILT = {"empty": b"", "cut": b'{"method": "TM', "zeros": bytes(300), "bytes": b"\xff\xfe{}", "list": b"[1, 2]"}


@pytest.fixture
def run(tmp_path: Path, finished: Path) -> Path:
    """A finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def resume(run: Path, source_root: Path, target_root: Path) -> int:
    return train.main(runs.arguments(run, source_root, target_root, "--resume", steps=6))


def error_of(capsys: Capture) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("content", SPOILT.values(), ids=SPOILT)
def test_a_damaged_record_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "done.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        read_record(path, "remove it")
    assert str(error.value).startswith(f"{path}: is damaged (") and str(error.value).endswith("); remove it")
    assert "\n" not in str(error.value)


def test_what_the_message_says_mends_it(
    run: Path, finished: Path, source_root: Path, target_root: Path, capsys: Capture
) -> None:
    for name in ("run.json", "tmt/done.json"):
        (run / name).write_text("{")
        assert resume(run, source_root, target_root) == 2
        message = error_of(capsys)
        assert message.startswith(f"error: {run / name}: is damaged (") and "; remove it, and the" in message
        (run / name).unlink()
    assert resume(run, source_root, target_root) == 0
    assert json.loads((run / "run.json").read_text())["directory"]
    assert (run / "tmt" / "done.json").read_text() == (finished / "tmt" / "done.json").read_text()


LINES = {
    "cut in the middle": '{"step": 2, "lo',
    "other bytes": '{"step": \x00, "loss": 3}',
    "no object": "[2]",
    "without a step": '{"loss": 3.5}',
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_damaged_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    before = path.read_text()
    with pytest.raises(CheckpointError) as error:
        MetricLines(path, step=3)
    message = str(error.value)
    assert message.startswith(f"{path}:") and "got " in message and message.endswith("; remove this line")
    assert "\n" not in message and path.read_text() == before


def test_a_run_with_a_damaged_line(run: Path, source_root: Path, target_root: Path, capsys: Capture) -> None:
    (run / "tmt" / "done.json").unlink()
    path = run / "tmt" / "metrics.jsonl"
    first, _, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([first, '{"step": 2, "lo\n', *rest]))
    assert resume(run, source_root, target_root) == 2
    assert error_of(capsys).startswith(f"error: {path}:2: must be a JSON object, got ")
    path.write_text("".join([first, *rest]))
    assert resume(run, source_root, target_root) == 0


@pytest.mark.parametrize("cut", ['{"step": 4, "loss', '{"step": 4}', "\0" * 40], ids=["half", "no end", "zeros"])
def test_a_last_line_cut_short_is_healed(cut: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = '{"step": 1, "loss": 0.1, "rate": 1e-05, "bad": NaN}\n{"step": 3, "evaluation": {"iou": [null, 1.0]}}\n'
    path.write_text(whole + cut)
    assert [line["step"] for line in read_lines(path)] == [1, 3]
    MetricLines(path, step=4).close()
    assert path.read_text() == whole


def test_lines_are_counted_from_one(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    assert read_lines(path) == []
    path.write_text('{"a": 1}\n\nnothing\n')
    with pytest.raises(CheckpointError, match=r"lines:3: must be a JSON object, got 'nothing'; remove this line$"):
        read_lines(path)
