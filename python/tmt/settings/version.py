"""The package's version, in one place: pyproject.toml."""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def find_version() -> str:
    """The installed package's version; of a checkout that is not installed, the one in its pyproject.toml."""
    try:
        return version("transferable-mask-transformer")
    except PackageNotFoundError:
        project = Path(__file__).resolve().parents[3] / "pyproject.toml"
    text = project.read_text(encoding="utf-8") if project.is_file() else ""
    found = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    return found.group(1) if found else "0+unknown"


__version__ = find_version()
