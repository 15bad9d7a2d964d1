"""Puts the results into README.md and draws bench/kernels.png: python -m bench.publish, after python -m bench."""

import json
from pathlib import Path

from . import picture, tables

HERE = Path(__file__).parent
RESULTS = HERE / "results/cpu-avx512-2-threads.json"
README = HERE.parent / "README.md"
BEGIN, END = "<!-- from bench/results, by bench.publish -->\n", "<!-- end -->\n"


def section(record: dict[str, object]) -> str:
    """What README.md says of the results."""
    about = record["environment"]
    taken = f"{about['processor']}, {about['threads']} threads, {about['instructions']}; {about['versions']}"
    head = f"{taken}; {about['date']}, revision {about['revision']}:"
    return "\n".join([head, "", *tables.digest(record["rows"]), "", *tables.verdict_lines(record["rows"]), ""])


def replaced(readme: str, text: str) -> str:
    """The README with another text between the marks."""
    before, _, rest = readme.partition(BEGIN)
    return before + BEGIN + text + END + rest.partition(END)[2]


def main() -> None:
    record = json.loads(RESULTS.read_text())
    README.write_text(replaced(README.read_text(), section(record)))
    picture.draw(record)


if __name__ == "__main__":
    main()
