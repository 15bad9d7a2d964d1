"""Draws docs/kernels.png: how data flows through the kernels, and the times of the forward passes."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (after the choice of backend)

PICTURE = Path(__file__).parents[1] / "docs/kernels.png"
MEMORY, CACHE, RESULT = "#d7e3f4", "#fde9c9", "#d9ead3"

# Boxes (x, y, width, height, colour, text) and arrows (from, to, what moves) of each operator, on a page of 10 x 6.
SUPERPIXEL = (
    [
        (0.1, 4.3, 2.3, 1.2, MEMORY, "features\n(B, C, H, W)"),
        (3.6, 4.3, 2.6, 1.2, CACHE, "tile: 64 pixels of a cell\nC x 64, in L1 / shared"),
        (7.2, 4.3, 2.6, 1.2, CACHE, "cosines with 9 centres\n(9, C) x (C, 64)"),
        (7.2, 2.3, 2.6, 1.2, CACHE, "softmax of 9, masses\nin registers"),
        (3.6, 2.3, 2.6, 1.2, CACHE, "sums for 9 regions\n(9, 64) x (64, C)"),
        (3.6, 0.3, 2.6, 1.2, MEMORY, "regions f_t = sums / masses\n(B, h w, C), kept for backward"),
        (7.2, 0.3, 2.6, 1.2, RESULT, "last time: assignment,\nlabels, region features"),
    ],
    [
        ((2.4, 4.9), (3.6, 4.9), "CPU: L + 1\ntimes, CUDA\nbf16: once"),
        ((6.2, 4.9), (7.2, 4.9), ""),
        ((8.5, 4.3), (8.5, 3.5), "no map of\nscores"),
        ((7.2, 2.9), (6.2, 2.9), ""),
        ((4.9, 2.3), (4.9, 1.5), "9 C floats a cell"),
        ((3.6, 0.9), (1.2, 2.4), ""),
        ((1.2, 2.4), (3.6, 4.4), "next of L iterations:\nnew centres"),
        ((6.2, 0.9), (7.2, 0.9), ""),
    ],
)
ATTENTION = (
    [
        (0.1, 4.3, 2.5, 1.2, MEMORY, "mask embeddings (N, E)\nand features (E, S); T (S)"),
        (3.6, 4.3, 2.6, 1.2, CACHE, "logits in registers, tested:\none bit a pair, for all heads"),
        (7.2, 4.3, 2.6, 1.2, CACHE, "plan: keys that pass T,\nordered by query"),
        (0.1, 2.3, 2.5, 1.2, MEMORY, "keys and values\n(heads, S, D)"),
        (3.6, 2.3, 2.6, 1.2, CACHE, "tile of 64 kept keys,\ngathered; empty ones skipped"),
        (7.2, 2.3, 2.6, 1.2, CACHE, "rows with a bit in the tile:\nscores, exponentials, sums"),
        (7.2, 0.3, 2.6, 1.2, RESULT, "splits of the keys merged\noutput (heads, N, D)"),
    ],
    [
        ((2.6, 4.9), (3.6, 4.9), "once, no\nN x S floats"),
        ((6.2, 4.9), (7.2, 4.9), "N S / 8\nbytes"),
        ((8.5, 4.3), (8.5, 3.5), "order, bits"),
        ((2.6, 2.9), (3.6, 2.9), "once a\nhead"),
        ((6.2, 2.9), (7.2, 2.9), ""),
        ((8.5, 2.3), (8.5, 1.5), "running maximum and sum"),
    ],
)


def flow(axes, title: str, boxes, arrows) -> None:
    """One operator as boxes and arrows: blue is memory, yellow stays in caches, green are results."""
    axes.set(xlim=(0, 10), ylim=(0, 6), title=title)
    axes.axis("off")
    for x, y, width, height, colour, text in boxes:
        axes.add_patch(plt.Rectangle((x, y), width, height, facecolor=colour, edgecolor="#555555"))
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8.5)
    for start, end, text in arrows:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "#333333"})
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        axes.text(
            x,
            y,
            text,
            ha="center",
            va="center",
            fontsize=7.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )


def bars(axes, rows: list[dict[str, object]], about: dict[str, str]) -> None:
    """Milliseconds of ours and of the fastest peer for the forward passes."""
    titles = [row["title"] for row in rows]
    own = [row["ms"]["tmt"]["median"] for row in rows]
    best = [min(ms["median"] for name, ms in row["ms"].items() if name != "tmt") for row in rows]
    places = range(len(rows))
    axes.barh([place + 0.2 for place in places], best, 0.38, color="#bbbbbb", label="fastest peer")
    axes.barh([place - 0.2 for place in places], own, 0.38, color="#3a6ea5", label="tmt")
    for place, (mine, theirs) in enumerate(zip(own, best, strict=True)):
        axes.text(theirs, place, f" {theirs / mine:.1f}x", va="center", fontsize=7)
    axes.set(yticks=list(places), xscale="log", xlabel="ms, forward", title=f"{about['processor']}, {about['date']}")
    axes.set_yticklabels(titles, fontsize=7)
    axes.invert_yaxis()
    axes.legend(fontsize=7, loc="center right")


def draw(record: dict[str, object]) -> None:
    """Writes the picture of the results of `python -m bench`."""
    shown = ("forward", "inference")
    forward = [row for row in record["rows"] if row["step"] in shown and "bfloat16" not in row["title"]]
    figure = plt.figure(figsize=(15, 9.5), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.15, 1])
    left, right = above.subplots(1, 2)
    flow(left, "superpixel", *SUPERPIXEL)
    flow(right, "masked attention", *ATTENTION)
    bars(below.subplots(), forward, record["environment"])
    figure.savefig(PICTURE, dpi=80)
