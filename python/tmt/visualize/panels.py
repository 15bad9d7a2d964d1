"""Pictures of what a model sees: image, ground truth, prediction, transferability and regions side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tmt.data import IGNORE, LabelSet, colourise
from tmt.runtime.files import write_atomically
from tmt.visualize.drawing import heat, outline

PANEL_WIDTH = 480
GAP = 8
CAPTION_HEIGHT = 24
SWATCH = 17  # a legend's colour and the gap to its name
LEGEND_FONT = ImageFont.load_default(13)


@dataclass(frozen=True)
class Panel:
    """One captioned picture."""

    caption: str
    pixels: np.ndarray
    """(H, W, 3) uint8."""
    photograph: bool = False
    """Whether it has the colours and the smoothness of one, and may be shrunk and compressed as such."""
    alt: str = ""
    """What it shows, for those who cannot see it."""


@dataclass(frozen=True)
class View:
    """What a model makes of one image, at the image's size."""

    prediction: np.ndarray
    """(H, W) uint8 train ids."""
    transferability: np.ndarray | None
    """(H, W) float32 in [0, 1]; None for plain Mask2Former."""
    regions: np.ndarray | None
    """(H, W) int64 region of each pixel; None for plain Mask2Former, and where several passes were averaged."""


def panels_of(image: np.ndarray, label: np.ndarray | None, views: dict[str, View], label_set: LabelSet) -> list[Panel]:
    """Image and ground truth, each view's prediction, then the maps of the last view that has them.

    image (H, W, 3) uint8; label (H, W) train ids; views by the caption of their prediction.
    """
    panels = [Panel("image", image, photograph=True)]
    if label is not None:
        panels.append(Panel("ground truth", colourise(label, label_set)))
    for caption, view in views.items():
        shown = view.prediction if label is None else np.where(label == IGNORE, IGNORE, view.prediction)
        panels.append(Panel(caption, colourise(shown, label_set)))
    for view in reversed(views.values()):
        if view.transferability is not None:
            low, high = view.transferability.min(), view.transferability.max()
            scaled = (view.transferability - low) / max(high - low, 1e-6)
            panels.append(Panel(f"transferability T, {low:.2f} (blue) to {high:.2f} (red)", heat(scaled)))
            if view.regions is not None:
                panels.append(Panel("superpixel borders", outline(image, view.regions)))
            break
    return panels


def compose(panels: Sequence[Panel], columns: int, label_set: LabelSet) -> Image.Image:
    """All panels on one sheet, `columns` in a row, captions above, the classes' colours below."""
    height = round(PANEL_WIDTH * panels[0].pixels.shape[0] / panels[0].pixels.shape[1])
    rows = -(-len(panels) // columns)
    cell = (PANEL_WIDTH + GAP, height + CAPTION_HEIGHT + GAP)
    width, bottom = columns * cell[0] + GAP, rows * cell[1] + GAP
    lines = legend_lines(label_set.names, width)
    sheet = Image.new("RGB", (width, bottom + len(lines) * CAPTION_HEIGHT), "white")
    for i, panel in enumerate(panels):
        left, top = GAP + i % columns * cell[0], GAP + i // columns * cell[1]
        ImageDraw.Draw(sheet).text((left, top), panel.caption, "black", ImageFont.load_default(16))
        method = Image.Resampling.BICUBIC if panel.photograph else Image.Resampling.NEAREST
        resized = Image.fromarray(panel.pixels).resize((PANEL_WIDTH, height), method)
        sheet.paste(resized, (left, top + CAPTION_HEIGHT))
    _draw_legend(sheet, bottom, lines, label_set)
    return sheet


def legend_lines(names: Sequence[str], width: int) -> list[range]:
    """The classes of each line of a legend `width` pixels wide: as few lines as the names allow, evenly filled."""
    longest = max(LEGEND_FONT.getlength(name) for name in names)
    most = max(1, int((width - 2 * GAP) // (longest + SWATCH + GAP)))
    per_line = -(-len(names) // -(-len(names) // most))
    return [range(first, min(first + per_line, len(names))) for first in range(0, len(names), per_line)]


def _draw_legend(sheet: Image.Image, top: int, lines: list[range], label_set: LabelSet) -> None:
    draw = ImageDraw.Draw(sheet)
    step = (sheet.width - 2 * GAP) / len(lines[0])
    for line, classes in enumerate(lines):
        for place, i in enumerate(classes):
            left, y = GAP + place * step, top + line * CAPTION_HEIGHT
            draw.rectangle((left, y + 3, left + 12, y + 15), fill=tuple(label_set.palette[i].tolist()))
            draw.text((left + SWATCH, y), label_set.names[i], "black", LEGEND_FONT)


def save(sheet: Image.Image, path: Path) -> None:
    """Write a sheet as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda partial: sheet.save(partial, format="PNG"))


def spread(count: int, total: int) -> list[int]:
    """At most `count` indices of `total`, evenly spread."""
    count = min(count, total)
    return [round(i * (total - 1) / max(count - 1, 1)) for i in range(count)]
