"""What became of a job's attempts, kept in its folder: one line each in attempts.jsonl, beside log.txt."""

import json
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

from tmt.errors import STATE_ERROR
from tmt.runtime.limits import NO_MEMORY, NO_SPACE

LOG = "log.txt"
ATTEMPTS = "attempts.jsonl"


@dataclass(frozen=True)
class Attempt:
    """One attempt at a job that came to an end."""

    code: int
    """Exit code; negative: the signal that ended it."""
    seconds: float
    message: str
    """Why it failed, on one line; empty where it did not."""


def read_attempts(folder: Path) -> list[Attempt]:
    """The attempts at the job in `folder` so far; a line cut short by a full disk, or damaged, does not count."""
    path = folder / ATTEMPTS
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    found = (_attempt(line) for line in lines if line.endswith("}\n"))
    return [attempt for attempt in found if attempt is not None]


def _attempt(line: str) -> Attempt | None:
    try:
        return Attempt(**json.loads(line))
    except (ValueError, TypeError):
        return None


def add_attempt(folder: Path, attempt: Attempt) -> None:
    """Put an attempt on record."""
    path = folder / ATTEMPTS
    # A line that a full disk cut short must not swallow this one.
    cut = path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if cut else "") + json.dumps(asdict(attempt)) + "\n")


def reason(code: int, log: str) -> str:
    """Why an attempt with this exit code failed, from what it wrote to its log: one line."""
    if code == 0:
        return ""
    lines = [line.strip() for line in log.replace("\r", "\n").splitlines() if line.strip()]
    signum = -code if code < 0 else code - 128
    if signum == getattr(signal, "SIGKILL", None):  # unknown to Windows
        return "killed by SIGKILL, as happens when memory runs out; use fewer --jobs or a smaller batch"
    for words, text in ((NO_MEMORY, "ran out of memory; use fewer --jobs or a smaller batch"), (NO_SPACE, "disk full")):
        found = [line for line in lines if any(word in line.lower() for word in words)]
        if found:
            return f"{text} ({_short(found[-1].removeprefix('error: '))})"
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return _short(errors[-1])
    if signum in {s.value for s in signal.Signals}:
        return f"ended by {signal.Signals(signum).name}"
    return f"exit code {code}" + (f" ({_short(lines[-1])})" if lines else "")


def lost_its_state(attempt: Attempt) -> bool:
    """Whether the next attempt had better begin anew: tmt.train said that what the folder holds is of no use.

    A full or failing disk, too little memory or another process in the folder says nothing about that.
    """
    return attempt.code == STATE_ERROR


def _short(line: str) -> str:
    return line if len(line) <= 300 else f"{line[:297]}..."
