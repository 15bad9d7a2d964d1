"""What a run leaves on record: how it was started, with which code and settings, and what it measured on the way."""

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tmt.engine.checkpoint import write_text
from tmt_ext import build_info

PACKAGES = (
    "transferable-mask-transformer",
    "torch",
    "transformers",
    "numpy",
    "POT",
    "pillow",
    "safetensors",
    "jsonargparse",
)


def describe(program: str, argv: Sequence[str], seed: int, processes: int, device: str) -> dict[str, object]:
    """Everything beside the settings that it takes to repeat a run, as JSON values."""
    return {
        "command": shlex.join(["python", "-m", program, *argv]),
        "revision": revision(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "platform": platform.platform(),
        "device": device,
        "processes": processes,
        "seed": seed,
        "started": now(),
    }


def now() -> str:
    """The time, UTC, ISO 8601 to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def revision() -> str:
    """The git revision of this package's checkout, with `-dirty` where it has changes; else that of the extension."""
    package = Path(__file__).resolve().parents[1]
    try:
        checkout = Path(_git(package, "rev-parse", "--show-toplevel"))
        if checkout / "python" / "tmt" != package:  # installed, perhaps below a checkout of something else
            return build_info()["revision"]
        head = _git(package, "rev-parse", "HEAD")
        changed = _git(package, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return build_info()["revision"]
    return f"{head}-dirty" if changed else head


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict:
    """Read JSON that `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


class MetricLines:
    """A stage's metrics.jsonl: one JSON object a line, each with its `step`.

    Opened at step s, lines of later steps are dropped: a resumed run will write them again.
    """

    def __init__(self, path: Path, step: int):
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= step]
        write_text(path, "".join(kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, **values: object) -> None:
        """Append one line."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _complete_lines(path: Path) -> list[str]:
    """The lines that a killed process has written to their end."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")]


def argv_of_process() -> list[str]:
    """The command line of this process without the program's name."""
    return sys.argv[1:]
