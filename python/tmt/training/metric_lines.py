"""A stage's metrics.jsonl."""

import json
from pathlib import Path

from tmt.runtime.files import write_text


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
