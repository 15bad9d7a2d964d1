"""One attempt at a job: its commands one after another in processes of their own, with one log."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tmt.studies.attempts import LOG

Commands = Sequence[Sequence[str]]


@dataclass
class JobProcess:
    """Commands at work in a job's folder. `lock` is inherited by them, so that it is held until the last has ended;
    where none can be inherited (Windows), until the study ends."""

    folder: Path
    commands: Commands
    environment: Mapping[str, str]
    lock: int
    _process: subprocess.Popen | None = field(default=None, init=False)
    _next: int = field(default=0, init=False)
    _stopped: bool = field(default=False, init=False)

    def poll(self) -> int | None:
        """The exit code of the first command that failed, 0 when all are done, None before that."""
        code = 0 if self._process is None else self._process.poll()
        if code == 0 and self._next < len(self.commands) and not self._stopped:
            self._start(self.commands[self._next])
            self._next += 1
            return None
        return code

    def _start(self, command: Sequence[str]) -> None:
        with (self.folder / LOG).open("ab") as log:
            # A session of its own: Ctrl-C reaches the study alone, which then asks each job to stop, once.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                pass_fds=(self.lock,) if os.name == "posix" else (),
                start_new_session=True,
            )

    def stop(self) -> None:
        """Ask it to save what it has and end."""
        self._stopped = True
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        return self._process.wait() if self._process is not None else 0

    def kill(self) -> None:
        """End all its processes at once."""
        if self._process is not None and self._process.poll() is None:
            self._kill_all(self._process)
            self._process.wait()

    @staticmethod
    def _kill_all(process: subprocess.Popen) -> None:
        """End a process and those of its session; without sessions (Windows), the process alone."""
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
