"""Pictures of what a model sees: image, ground truth, prediction, transferability and regions side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tmt.data import CLASSES, IGNORE, PALETTE, colourise, normalise
from tmt.engine.checkpoint import write_atomically

PANEL_WIDTH = 480
GAP = 8
CAPTION_HEIGHT = 24
BORDER_COLOUR = (255, 230, 0)
# Transferability from 0 (divergent, blue) to 1 (transferable, red); even steps of lightness up to the middle.
HEAT = np.array([(33, 60, 140), (90, 150, 205), (235, 235, 225), (240, 150, 90), (165, 30, 40)], dtype=np.float32)


@dataclass(frozen=True)
class Panel:
    """One captioned picture."""

    caption: str
    pixels: np.ndarray
    """(H, W, 3) uint8."""


@dataclass(frozen=True)
class View:
    """What a model makes of one image, at the image's size."""

    prediction: np.ndarray
    """(H, W) uint8 train ids."""
    transferability: np.ndarray | None
    """(H, W) float32 in [0, 1]; None for plain Mask2Former."""
    regions: np.ndarray | None
    """(H, W) int64 region of each pixel; None for plain Mask2Former."""


@torch.no_grad()
def look(model: nn.Module, image: np.ndarray) -> View:
    """Apply a segmentation model in evaluation mode to an image (H, W, 3) uint8."""
    device = next(model.parameters()).device
    outputs = model(pixel_values=normalise(image)[None].to(device))
    size = image.shape[:2]
    prediction = model.semantic_probabilities(outputs, size).argmax(1)[0]
    return View(
        prediction.to(torch.uint8).cpu().numpy(),
        _enlarge(outputs.transferability, size),
        _enlarge(outputs.region_labels, size),
    )


def _enlarge(plane: Tensor | None, size: tuple[int, int]) -> np.ndarray | None:
    """A map (1, h, w), at the image's size by nearest neighbour."""
    if plane is None:
        return None
    enlarged = interpolate(plane[:, None].double(), size=size, mode="nearest")[0, 0]
    return enlarged.to(plane.dtype).cpu().numpy()


def heat(values: np.ndarray) -> np.ndarray:
    """Values (H, W) in [0, 1] as colours (H, W, 3) uint8, blue to red."""
    position = np.clip(values, 0, 1) * (len(HEAT) - 1)
    channels = [np.interp(position, np.arange(len(HEAT)), HEAT[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def outline(image: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """The image (H, W, 3) uint8 with the borders between regions (H, W) drawn in."""
    border = np.zeros(regions.shape, dtype=bool)
    border[:, 1:] |= regions[:, 1:] != regions[:, :-1]
    border[1:] |= regions[1:] != regions[:-1]
    drawn = image.copy()
    drawn[border] = BORDER_COLOUR
    return drawn


def panels_of(image: np.ndarray, label: np.ndarray | None, views: dict[str, View]) -> list[Panel]:
    """Image and ground truth, each view's prediction, then the maps of the last view that has them.

    image (H, W, 3) uint8; label (H, W) train ids; views by the caption of their prediction.
    """
    panels = [Panel("image", image)]
    if label is not None:
        panels.append(Panel("ground truth", colourise(label)))
    for caption, view in views.items():
        shown = view.prediction if label is None else np.where(label == IGNORE, IGNORE, view.prediction)
        panels.append(Panel(caption, colourise(shown)))
    for view in reversed(views.values()):
        if view.transferability is not None:
            low, high = view.transferability.min(), view.transferability.max()
            scaled = (view.transferability - low) / max(high - low, 1e-6)
            panels.append(Panel(f"transferability T, {low:.2f} (blue) to {high:.2f} (red)", heat(scaled)))
            panels.append(Panel("superpixel borders", outline(image, view.regions)))
            break
    return panels


def compose(panels: Sequence[Panel], columns: int) -> Image.Image:
    """All panels on one sheet, `columns` in a row, captions above, the classes' colours below."""
    height = round(PANEL_WIDTH * panels[0].pixels.shape[0] / panels[0].pixels.shape[1])
    rows = -(-len(panels) // columns)
    cell = (PANEL_WIDTH + GAP, height + CAPTION_HEIGHT + GAP)
    sheet = Image.new("RGB", (columns * cell[0] + GAP, rows * cell[1] + GAP + 2 * CAPTION_HEIGHT), "white")
    for i, panel in enumerate(panels):
        left, top = GAP + i % columns * cell[0], GAP + i // columns * cell[1]
        ImageDraw.Draw(sheet).text((left, top), panel.caption, "black", ImageFont.load_default(16))
        resized = Image.fromarray(panel.pixels).resize((PANEL_WIDTH, height), _method(panel))
        sheet.paste(resized, (left, top + CAPTION_HEIGHT))
    _draw_legend(sheet, rows * cell[1] + GAP)
    return sheet


def _method(panel: Panel) -> Image.Resampling:
    return Image.Resampling.BICUBIC if panel.caption == "image" else Image.Resampling.NEAREST


def _draw_legend(sheet: Image.Image, top: int) -> None:
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    per_line = -(-len(CLASSES) // 2)
    step = (sheet.width - 2 * GAP) / per_line
    for i, (name, colour) in enumerate(zip(CLASSES, PALETTE.tolist(), strict=True)):
        left, line = GAP + i % per_line * step, top + i // per_line * CAPTION_HEIGHT
        draw.rectangle((left, line + 3, left + 12, line + 15), fill=tuple(colour))
        draw.text((left + 17, line), name, "black", font)


def save(sheet: Image.Image, path: Path) -> None:
    """Write a sheet as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda partial: sheet.save(partial, format="PNG"))


def spread(count: int, total: int) -> list[int]:
    """At most `count` indices of `total`, evenly spread."""
    count = min(count, total)
    return [round(i * (total - 1) / max(count - 1, 1)) for i in range(count)]
