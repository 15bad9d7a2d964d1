"""How a run was started: its command, code, versions and machine."""

import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tmt.runtime.waiting import waiting
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
        "directory": os.getcwd(),
        "revision": revision(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "platform": platform.platform(),
        "device": device,
        "processes": processes,
        "waiting": waiting(),
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
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
