"""How the cost of a training step and of inference grows, ours and transformers': python -m bench.growth.

Curves over image size, batch, threads, queries and (ours alone: transformers has none) regions, from Swin-T on one
image of 256 x 512. Contestants take turns. Writes bench/results/growth.{json,md,png}; a slope is that of a straight
line through the logarithms, 1 where twice as much costs twice as much.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from tmt.settings import ModelConfig, TMTSettings

from . import models, origin, tables, timing

SIDES = ((128, 256), (256, 512), (384, 768), (512, 1024))
BATCHES, THREADS, QUERIES, CELLS = (1, 2, 4), (1, 2), (25, 50, 100, 200), (8, 4, 2)
BASE = SIDES[1]
PAPER = TMTSettings(mask_rule="uncertain", transferability=True)
STEPS = ("training step", "inference")
ROUNDS = 3  # at least


class Point(NamedTuple):
    """One place on a curve."""

    axis: str
    amount: int  # along the axis
    sizes: ModelConfig
    settings: TMTSettings = models.PLAIN
    batch: int = 1
    size: tuple[int, int] = BASE
    threads: int = 2


def points() -> Iterator[Point]:
    """Every place, axis by axis; the last axis is TMT as the paper has it."""
    yield from (Point("pixels", math.prod(size), models.SWIN, size=size) for size in SIDES)
    yield from (Point("images", batch, models.SWIN, batch=batch) for batch in BATCHES)
    yield from (Point("threads", threads, models.SWIN, threads=threads) for threads in THREADS)
    for queries in QUERIES:
        yield Point("queries", queries, dataclasses.replace(models.SWIN, queries=queries))
    for cell in CELLS:
        count = math.prod(-(-side // 8 // cell) for side in BASE)
        yield Point("regions", count, models.SWIN, dataclasses.replace(PAPER, cell=cell))


def measure(point: Point) -> dict[str, dict[str, float]]:
    """Median milliseconds by step and contestant."""
    torch.set_num_threads(point.threads)
    torch.manual_seed(0)
    ours, theirs = models.contestants(point.sizes, point.settings)
    pair = {"tmt": ours} if point.axis == "regions" else {"tmt": ours, "transformers": theirs}
    batch = models.Batch.draw(point.batch, point.size)
    calls: dict[str, dict[str, Callable[[], object]]] = {
        "training step": {name: models.training_step(model, batch) for name, model in pair.items()},
        "inference": {name: models.inference(model, batch.pixels) for name, model in pair.items()},
    }
    found = {step: timing.interleaved(runs, timing.on_cpu, ROUNDS) for step, runs in calls.items()}
    return {step: {name: one.median for name, one in stats.items()} for step, stats in found.items()}


def slope(amounts: list[int], ms: list[float]) -> float:
    """Of the line through the logarithms."""
    return float(np.polyfit(np.log(amounts), np.log(ms), 1)[0])


def curves(rows: list[dict]) -> dict[str, list[dict]]:
    """The rows of each axis."""
    found: dict[str, list[dict]] = {}
    for row in rows:
        found.setdefault(row["axis"], []).append(row)
    return found


def lines(rows: list[dict]) -> list[str]:
    """Markdown: a table for each axis, its last row the slopes."""
    text = []
    for axis, along in curves(rows).items():
        names = list(along[0]["ms"][STEPS[0]])
        columns = [(step, name) for step in STEPS for name in names]
        text += ["", "| " + " | ".join([axis, *(f"{step}, {name}, ms" for step, name in columns)]) + " |"]
        text += ["| --- " * (1 + len(columns)) + "|"]
        figures = [[row["ms"][step][name] for step, name in columns] for row in along]
        for row, ms in zip(along, figures, strict=True):
            text.append(f"| {row['amount']:,} | " + " | ".join(tables.number(one) for one in ms) + " |")
        slopes = [slope([row["amount"] for row in along], list(column)) for column in zip(*figures, strict=True)]
        text.append("| slope | " + " | ".join(f"{one:.2f}" for one in slopes) + " |")
    return ["Swin-T, from one image of 256 x 512 on two threads, along one axis at a time.", *text]


def draw(rows: list[dict], file: Path) -> None:
    """The curves, an axis beside the other, both scales logarithmic."""
    from matplotlib.figure import Figure

    found = curves(rows)
    figure = Figure(figsize=(3 * len(found), 3.4), layout="constrained")
    for axes, (axis, along) in zip(figure.subplots(1, len(found), sharey=True), found.items(), strict=True):
        amounts = [row["amount"] for row in along]
        for name, colour in (("tmt", "#1f6f8b"), ("transformers", "#b3541e")):
            for step, style in zip(STEPS, ("-", "--"), strict=True):
                if name in along[0]["ms"][step]:
                    ms = [row["ms"][step][name] for row in along]
                    axes.loglog(amounts, ms, style, marker="o", color=colour, label=f"{name}, {step}")
        axes.set_xticks(amounts, [f"{one:,}" if one < 10_000 else f"{one / 1e3:.0f}k" for one in amounts], fontsize=7)
        axes.minorticks_off()
        axes.set_xlabel(axis)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("milliseconds")
    figure.axes[0].legend(fontsize=7)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--only", default="", help="measure this axis alone, and write nothing")
    only = parser.parse_args().only
    rows = []
    for point in points():
        if only in point.axis:
            rows.append({"axis": point.axis, "amount": point.amount, "ms": measure(point)})
            print(rows[-1], flush=True)
    record = {"environment": {**origin.cpu(), "threads": "1 and 2"}, "rows": rows}
    if only:
        print(tables.page(record, lines(rows)))
        return
    tables.keep_page(record, lines(rows), "growth")
    draw(rows, tables.RESULTS / "growth.png")


if __name__ == "__main__":
    main()
