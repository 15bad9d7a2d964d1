"""What a stage shows and records while it trains: a progress bar, metrics.jsonl, and what trackers get of it."""

import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tmt.errors import CheckpointError
from tmt.runtime.files import naming, read_lines, write_text
from tmt.training.schedule import Schedule
from tmt.training.trackers import Trackers, Tracking

UNTRACKED = Tracking()


class MetricLines:
    """A stage's metrics.jsonl: one JSON object a line, each with its `step`.

    Opened at step s, lines of later steps are dropped: a resumed run will write them again. Raises CheckpointError for
    a damaged line, unless it is the last one, cut short.
    """

    def __init__(self, path: Path, step: int):
        kept = [line for line in read_lines(path) if _step(line, path) <= step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._path, self._file = path, path.open("a", encoding="utf-8")

    def write(self, **values: object) -> None:
        """Append one line."""
        with naming(self._path):
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file; what a full disk did not take has been reported by `write`."""
        with suppress(OSError):
            self._file.close()


def _step(line: dict[str, Any], path: Path) -> int:
    if not isinstance(line.get("step"), int):
        raise CheckpointError(f"{path}: every line must have a step, got {json.dumps(line)[:60]}; remove this line")
    return line["step"]


class StageLog:
    """Of one stage from a step on; the main process alone shows, writes and tracks anything."""

    def __init__(
        self, name: str, folder: Path, schedule: Schedule, step: int, main: bool, tracking: Tracking = UNTRACKED
    ):
        self.schedule, self.main = schedule, main
        self._lines = MetricLines(folder / "metrics.jsonl", step) if main else None
        self._trackers = Trackers(tracking if main else UNTRACKED, folder, step)
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=schedule.steps, initial=step, desc=name, unit="step", mininterval=0.5 if terminal else 20,
            dynamic_ncols=terminal, disable=not main,
        )  # fmt: skip

    def __enter__(self) -> "StageLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._lines:
            self._lines.close()
        self._trackers.close()

    def step(self, step: int, images: int, values: dict[str, Any]) -> None:
        """A step that was taken on so many images over all processes, and what it measured."""
        if self._lines is None:
            return
        rate = (self._bar.n + 1 - self._bar.initial) * images / max(self._bar.format_dict["elapsed"], 1e-9)
        self._bar.set_postfix_str(f"loss {values['loss']:.3f}, lr {values['lr']:.1e}, {rate:.1f} img/s", refresh=False)
        self._bar.update()
        if step % self.schedule.log_every == 0:
            self._lines.write(step=step, time=round(time.time(), 3), **values)
            self._trackers.log(step, **values)

    def evaluation(self, step: int, result: object) -> None:
        """An evaluation of the weights after a step."""
        if self._lines:
            self._lines.write(step=step, evaluation=result)
            self._trackers.log(step, evaluation=result)
