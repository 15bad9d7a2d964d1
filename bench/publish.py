"""Puts the results into docs/performance.md and README.md and draws docs/kernels.png: python -m bench.publish, after
make bench."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from . import contended, growth, large_image, picture, residency, tables

HERE = Path(__file__).parent
RESULTS = HERE / "results/cpu-avx512-2-threads.json"
FURTHER: dict[str, tuple[str, Callable[[dict], list[str]]]] = {
    "While another process keeps a core busy": ("contended", lambda record: contended.lines(record["ms"])),
    "How cost grows": ("growth", lambda record: growth.lines(record["rows"])),
    "A large image": ("large_image", lambda record: large_image.lines(record["GB"])),
    "Superpixels that the cache holds, and others": ("residency", lambda record: residency.lines(record["rows"])),
}
"""Pages beside the table, by their headings: the file of their figures, and what they say."""
CURVES = "growth.png"
README, PAGE = HERE.parent / "README.md", HERE.parent / "docs/performance.md"
BEGIN, END = "<!-- from bench/results, by bench.publish -->\n", "<!-- end -->\n"
HEADLINES = {
    "superpixels": ("superpixel", "the fastest plain PyTorch, compiled"),
    "masked attention": ("attention", "`scaled_dot_product_attention`, dense or gathered"),
    "deformable attention": ("deformable attention", "`transformers`, compiled or not"),
    "whole Mask2Former, Swin-T": ("model Swin-T", "`transformers`, the same weights"),
}
"""Rows of the README: which titles they are of, and what all contestants but ours are."""


def origin(record: dict[str, object]) -> str:
    """Where the figures were taken."""
    about = record["environment"]
    taken = f"{about['processor']}, {about['threads']} threads, {about['instructions']}; {about['versions']}"
    return f"{taken}; {about['date']}, revision {about['revision']}:"


def section(record: dict[str, object]) -> str:
    """What docs/performance.md says of the results."""
    return "\n".join(
        [origin(record), "", *tables.digest(record["rows"]), "", *tables.verdict_lines(record["rows"]), ""]
    )


def further() -> str:
    """What docs/performance.md says of the other pages."""
    text = []
    for heading, (name, lines) in FURTHER.items():
        record = json.loads((RESULTS.parent / f"{name}.json").read_text())
        text += [f"## {heading}", "", origin(record), "", *lines(record), ""]
        if name == "growth":
            text += [f"![Milliseconds over pixels, images, threads, queries and regions]({CURVES})", ""]
    return "\n".join(text)


def summary(record: dict[str, object]) -> str:
    """What README.md says of them: how many times as fast ours is as the fastest peer of each row."""
    lines = ["| what | times as fast as | forward | forward + backward |", "| --- | --- | ---: | ---: |"]
    for name, (title, peers) in HEADLINES.items():
        rows = [row for row in record["rows"] if row["title"].startswith(title) and not _aside(row["title"])]
        forward = [_times(row) for row in rows if row["step"] in ("forward", "inference")]
        both = [_times(row) for row in rows if row["step"] in ("forward + backward", "training step")]
        lines.append(f"| {name} | {peers} | {_span(forward)} | {_span(both)} |")
    return "\n".join([origin(record), "", *lines, ""])


def _aside(title: str) -> bool:
    """Whether a row compares with ours in float32, or with a peer that is far from the fastest."""
    return "bfloat16" in title or "against" in title


def _times(row: dict[str, object]) -> float:
    own, *others = (ms["median"] for ms in row["ms"].values())
    return min(others) / own


def _span(values: list[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def replaced(page: str, text: str) -> str:
    """A page with another text between the marks."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + text + END + rest.partition(END)[2]


def texts(record: dict[str, object]) -> dict[Path, str]:
    """What each page says between the marks."""
    return {PAGE: f"{section(record)}\n{further()}", README: summary(record)}


def main() -> None:
    record = json.loads(RESULTS.read_text())
    for page, text in texts(record).items():
        page.write_text(replaced(page.read_text(), text))
    shutil.copyfile(RESULTS.parent / CURVES, PAGE.parent / CURVES)
    picture.draw(record)


if __name__ == "__main__":
    main()
