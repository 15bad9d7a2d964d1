"""A job's life in one call of a study: attempts are started, watched and put on record until one has ended well."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from tmt.errors import CheckpointError
from tmt.runtime.files import write_json, write_text
from tmt.runtime.lock import held, in_use
from tmt.settings import Keep
from tmt.studies.attempts import ATTEMPTS, LOG, Attempt, add_attempt, lost_its_state, reason
from tmt.studies.backends import BUSY, Backend, Handle
from tmt.studies.collect import remove_all_but, result_of, thin_out
from tmt.studies.jobs import Job, config_text, holds
from tmt.studies.process import Commands

State = Literal["waiting", "working", "done", "lost"]
LOG_END = 100_000
"""Bytes at the end of a log that the reason of a failure is looked for in."""


@dataclass(frozen=True)
class Setting:
    """What all jobs of a call share."""

    backend: Backend
    commands: Callable[[Job], Commands]
    environment: Mapping[str, str]
    retries: int
    """Further attempts at a job that fails."""
    keep: Keep


@dataclass(frozen=True)
class _Started:
    """An attempt at work."""

    handle: Handle
    time: float
    log_start: int


@dataclass
class JobRun:
    """One job in one call."""

    job: Job
    lock: Path
    """Locked as long as a process works in the job's folder."""
    result_file: Path
    setting: Setting
    state: State = "waiting"
    busy: bool = False
    """Whether a process of an earlier call was found at work in the folder."""
    _started: _Started | None = field(default=None, init=False)
    _failures: int = field(default=0, init=False)
    _anew: bool = field(default=False, init=False)
    """Whether the next attempt begins in an empty folder."""

    def start(self) -> bool:
        """Start an attempt; False where that must wait for a process that an earlier, killed call has left."""
        if held(self.lock) or in_use(self.job.folder):
            return self._wait_for_earlier()
        try:
            self._prepare_folder()
            log = self.job.folder / LOG
            log_start = log.stat().st_size if log.exists() else 0
            commands, backend = self.setting.commands(self.job), self.setting.backend
            handle = backend.start(self.job.folder, commands, self.setting.environment, self.lock)
        except OSError as error:
            self._failed(Attempt(1, 0.0, message_of(error)))
            return True
        if handle is None:
            return self._wait_for_earlier()
        self._started, self.state = _Started(handle, time.monotonic(), log_start), "working"
        return True

    def _wait_for_earlier(self) -> bool:
        if not self.busy:
            tqdm.write(f"{self.job.id}: a process of an earlier call still works on it; waiting for its end")
        self.busy = True
        return False

    def _prepare_folder(self) -> None:
        """The job's folder with its config.yaml: as an earlier attempt left it, or, where that is no use, empty."""
        job = self.job
        path = job.folder / "config.yaml"
        job.folder.mkdir(parents=True, exist_ok=True)
        whole = holds(path, job.config)
        trained = (job.folder / job.stage / "done.json").exists()
        if not whole or (trained and not job.weights.exists()) or self._anew:
            remove_all_but(job.folder, (LOG, ATTEMPTS))
            write_text(path, config_text(job.config))

    def poll(self) -> None:
        """See whether the attempt at work has ended, and how."""
        assert self._started is not None
        started = self._started
        try:
            code = started.handle.poll()
        except OSError as error:
            self._failed(Attempt(1, round(time.monotonic() - started.time, 1), message_of(error)))
            return
        if code == BUSY:
            self.state = "waiting"
            self._wait_for_earlier()
        elif code is not None:
            self._ended(code, time.monotonic() - started.time, started.log_start)

    def _ended(self, code: int, seconds: float, log_start: int) -> None:
        if code:
            self._failed(Attempt(code, round(seconds, 1), reason(code, self._log(log_start))))
            return
        try:
            write_json(self.result_file, result_of(self.job, seconds))
        except OSError as error:
            self._failed(Attempt(1, seconds, message_of(error)))
        except CheckpointError as error:
            self._failed(Attempt(1, round(seconds, 1), str(error)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._failed(Attempt(1, round(seconds, 1), f"left no readable results ({error})"))
        else:
            self._done(Attempt(0, round(seconds, 1), ""))

    def _log(self, start: int) -> str:
        """The end of what an attempt wrote to the log."""
        path = self.job.folder / LOG
        try:
            with path.open("rb") as file:
                file.seek(max(start, path.stat().st_size - LOG_END))
                return file.read().decode("utf-8", errors="replace")
        except OSError:  # it is not there, or the disk fails: then the exit code alone says what happened
            return ""

    def _done(self, attempt: Attempt) -> None:
        self.state = "done"
        try:
            add_attempt(self.job.folder, attempt)
            thin_out_for_now(self.job, self.setting.keep)
        except OSError as error:
            tqdm.write(f"warning: {self.job.id}: its folder could not be thinned out ({message_of(error)})")

    def _failed(self, attempt: Attempt) -> None:
        """Put a failure on record; the job waits for its next attempt where one is left."""
        self._failures += 1
        again = self._failures <= self.setting.retries
        self.state = "waiting" if again else "lost"
        self._anew = lost_its_state(attempt)
        log = self.job.folder / LOG
        tqdm.write(f"{self.job.id}: {attempt.message}; {'trying again' if again else 'failed'} (log: {log})")
        try:
            add_attempt(self.job.folder, attempt)
        except OSError as error:
            tqdm.write(f"warning: {self.job.id}: its failure could not be put on record ({message_of(error)})")

    def stop(self) -> None:
        """Ask the attempt at work to save what it has and end."""
        if self._started is not None:
            self._started.handle.stop()

    def wait(self) -> None:
        """Wait for its end."""
        if self._started is not None:
            self._started.handle.wait()


def thin_out_for_now(job: Job, keep: Keep) -> None:
    """Remove what a finished job no longer needs; models that other jobs start from stay until the study's end."""
    thin_out(job.folder, keep if job.kind == "target" or keep != "nothing" else "models", job.stage)


def message_of(error: OSError) -> str:
    """What the system refused, on one line."""
    text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return reason(1, text).removeprefix("exit code 1 ")
