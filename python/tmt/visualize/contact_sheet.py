"""Contact sheets: small pictures in rows, for the eye to find what no rule finds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tmt.data.check import some_samples
from tmt.data.datasets import list_dataset
from tmt.data.files import Sample
from tmt.data.labels import IGNORE, LabelSet, colourise
from tmt.errors import DataError
from tmt.synthetic import DOMAINS, render

GAP, CAPTION = 4, 14
BACKGROUND = (24, 24, 24)


def overlay(sample: Sample, label_set: LabelSet, opacity: float = 0.55) -> np.ndarray:
    """The image under its classes' colours, uint8 (H, W, 3); what is ignored keeps its own."""
    colours = colourise(sample.label, label_set)
    share = np.where(sample.label == IGNORE, 0.0, opacity)[..., None]
    return (sample.image * (1 - share) + colours * share + 0.5).astype(np.uint8)


def fit(pixels: np.ndarray, width: int, height: int) -> Image.Image:
    """A picture shrunk or enlarged into a box, not distorted."""
    scale = min(width / pixels.shape[1], height / pixels.shape[0])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return Image.fromarray(pixels).resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)


def sheet(rows: Sequence[tuple[str, Sequence[np.ndarray]]], width: int, height: int) -> Image.Image:
    """Rows of pictures uint8 (h, w, 3), each row under its caption, each picture in a box of `width` x `height`."""
    columns = max(len(pictures) for _, pictures in rows)
    pitch = CAPTION + height + GAP
    whole = Image.new("RGB", (GAP + columns * (width + GAP), GAP + len(rows) * pitch), BACKGROUND)
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(11)
    for row, (caption, pictures) in enumerate(rows):
        top = GAP + row * pitch
        draw.text((GAP, top - 1), caption, fill=(235, 235, 235), font=font)
        for column, pixels in enumerate(pictures):
            whole.paste(fit(pixels, width, height), (GAP + column * (width + GAP), top + CAPTION))
    return whole


def contact_sheet(
    dataset: str, root: str | Path, splits: Sequence[str], mapping: str, version: str | None, each: int = 8
) -> Image.Image | None:
    """Up to `each` images of each split under their labels' colours, two a row with the images themselves; None where
    nothing can be read."""
    rows = []
    for split in splits:
        try:
            listing = list_dataset(dataset, root, split, mapping=mapping, version=version)
        except DataError:
            continue
        samples = list(some_samples(listing, each))
        for pair in zip(samples[::2], [*samples[1::2], None], strict=False):
            shown = [sample for sample in pair if sample]
            caption = f"{split}: " + ", ".join(sample.name for sample in shown)
            rows.append((caption, [p for s in shown for p in (s.image, overlay(s, listing.label_set))]))
    return sheet(rows, 320, 160) if rows else None


def domains_picture(scenes: int = 4, first: int = 8, distance: float = 1.0) -> Image.Image:
    """Scenes from number `first` on of every synthetic domain, a row each, in few enough colours to be a small file."""
    rows = []
    for name in DOMAINS:
        shown = [render(name, 0, first + i, (96, 192), distance)[0] for i in range(scenes)]
        rows.append((f"{name} (synthetic)", shown))
    return sheet(rows, 192, 96).quantize(255, dither=Image.Dither.NONE)
