"""Rows kept as they are measured, one JSON line each, and the tables made of them: python -m bench.rows FILE.jsonl.

A line holds {"row": ...} or {"environment": {name: value}}; the tables are FILE.json and FILE.md.
"""

import json
import sys
from pathlib import Path

from . import tables


def keep(file: Path, **line: object) -> None:
    """Appends keep(file, row=...) or keep(file, environment=...)."""
    with file.open("a") as lines:
        lines.write(json.dumps(line) + "\n")


def read(file: Path) -> dict[str, object]:
    """{"environment": all of it, "rows": in order}."""
    lines = [parsed(line) for line in file.read_text().splitlines()]
    environment = {name: value for line in lines for name, value in line.get("environment", {}).items()}
    return {"environment": environment, "rows": [line["row"] for line in lines if "row" in line]}


def parsed(line: str) -> dict[str, object]:
    """What a line holds: nothing if the time of its writer was over in the middle of it."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return {}


def main() -> None:
    (file,) = map(Path, sys.argv[1:])
    record = read(file)
    text = tables.document(record)
    tables.save(record, file.parent, file.stem, text)
    print(text)


if __name__ == "__main__":
    main()
