"""What reading features again costs superpixels on the CPU: python -m bench.residency.

Nanoseconds a pixel for maps that the second-level cache holds and for maps that it does not, at the same channels and
cells. The features are read L + 1 times; what a walk that keeps them in the cache could save at most is the difference.
Writes bench/results/residency.{json,md}.
"""

import functools
import math

import torch

from . import contests, origin, tables, timing

CHANNELS, CELL, THREADS = 256, 8, (1, 2)
SIDES = ((16, 32), (32, 32), (32, 64), (64, 128), (128, 256))


def measure() -> list[dict[str, float]]:
    """Nanoseconds a pixel, by threads and size; sizes take turns."""
    rows = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        maps = {side: torch.randn(1, CHANNELS, *side) for side in SIDES}
        own = contests.own_superpixels(CELL)
        calls = {str(side): functools.partial(own, x) for side, x in maps.items()}
        stats = timing.interleaved(calls, timing.on_cpu)
        for side, x in maps.items():
            ns = 1e6 * stats[str(side)].median / math.prod(side)
            rows.append({"threads": threads, "height": side[0], "width": side[1], "MiB": x.nbytes / 2**20, "ns": ns})
    return rows


def lines(rows: list[dict[str, float]]) -> list[str]:
    """Markdown."""
    text = [f"Superpixels of {CHANNELS} channels in cells of {CELL}, forward, float32.", ""]
    text += ["| threads | map | features, MiB | ns a pixel |", "| --- | --- | --- | --- |"]
    for row in rows:
        size = f"{row['height']} x {row['width']}"
        text.append(f"| {row['threads']} | {size} | {row['MiB']:.1f} | {tables.number(row['ns'])} |")
    return text


def main() -> None:
    record = {"environment": {**origin.cpu(), "threads": "1 and 2"}, "rows": measure()}
    tables.keep_page(record, lines(record["rows"]), "residency")


if __name__ == "__main__":
    main()
