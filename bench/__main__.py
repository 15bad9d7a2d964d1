"""Measures the operators and the decoder against their peers on the CPU: python -m bench.

Prints one table, with each goal met or missed, and writes it as JSON and Markdown.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from . import contests, memory, origin, tables, timing


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", default="", help="measure rows whose title contains this, and write nothing")
    parser.add_argument("--out", type=Path, default=tables.RESULTS, help="folder for the JSON and Markdown files")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    rows = measure(arguments.only)
    record = {"environment": origin.cpu(), "seconds": round(time.perf_counter() - begin), "rows": rows}
    text = tables.document(record)
    print(text)
    if not arguments.only:
        about = record["environment"]
        tables.save(record, arguments.out, f"cpu-{about['instructions']}-{about['threads']}-threads", text)


def measure(only: str) -> list[dict[str, object]]:
    """Memory first, in a process of its own; then times, row by row."""
    with tempfile.TemporaryDirectory() as folder:
        mib = memory.of_contests(only, Path(folder) / "memory.json")
    rows = []
    for contest in contests.on_cpu(only):
        stats = timing.interleaved(contest.calls, timing.on_cpu)
        rows.append(tables.record(contest, stats, mib[contest.row]))
        print(tables.line(rows[-1]), file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    main()
