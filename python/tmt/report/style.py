"""One look for all charts: small SVG, text as text, ink that turns light where the reader's screen is dark."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, GRID, FAINT = "#24292f", "#d0d7de", "#8b949e"
DARK = {INK: "#e6edf3", GRID: "#3d444d"}
"""What these colours become on a dark screen."""
COLOURS = ("#3b7dd8", "#d6453d", "#2e9e6b", "#e08a00", "#9467bd", "#1a9fb0", "#a0714f", "#d16ba5", "#7f8c3b", FAINT)
MARKERS = "osD^vPX*<>"
WIDTH = 4.3
"""Inches: on a phone the text is still readable."""
SETTINGS: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names are names, whatever they hold
    "svg.hashsalt": "tmt.report",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Chart:
    """One drawn chart."""

    name: str
    """Of its file, without ending."""
    caption: str
    """What is drawn: unit, n, which evaluation."""
    alt: str
    """What it shows, for those who cannot see it."""
    svg: str


@contextmanager
def canvas(height: float, width: float = WIDTH) -> Iterator[tuple[Figure, Axes]]:
    """A figure of one axes, in inches, under the common settings."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots()


def to_svg(figure: Figure) -> str:
    """The figure as SVG without metadata and doctype, with the colours of a dark screen; the same every time."""
    with matplotlib.rc_context(SETTINGS):
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = re.sub(r"<\?xml.*?\?>\s*|<!DOCTYPE.*?>\s*|<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    return text.replace("<defs>", f"<style>{_dark()}</style>\n <defs>", 1)


def _dark() -> str:
    rules = "".join(
        f'[style*="{part}: {light}"]{{{part}:{dark} !important}}'
        for light, dark in DARK.items()
        for part in ("fill", "stroke")
    )
    default = f"text{{fill:{INK}}}"  # text in the default ink has no style of its own
    return f"{default}@media (prefers-color-scheme: dark){{{rules}text{{fill:{DARK[INK]} !important}}}}"


def labels_down(axes: Axes, labels: Sequence[str]) -> None:
    """Rows from top to bottom, named."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def zero_line(axes: Axes) -> None:
    """The vertical line of no difference."""
    axes.axvline(0, color=INK, linewidth=0.8)


def legend_below(axes: Axes, columns: int = 2) -> None:
    """A legend under the axes, so that it hides nothing."""
    handles, names = axes.get_legend_handles_labels()
    if handles:
        axes.figure.legend(handles, names, loc="outside lower center", ncols=min(columns, len(names)))
