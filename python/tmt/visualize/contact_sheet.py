"""Contact sheets: small pictures in rows, for the eye to find what no rule finds."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP, CAPTION = 4, 14
BACKGROUND = (24, 24, 24)


def fit(pixels: np.ndarray, width: int, height: int) -> Image.Image:
    """A picture shrunk or enlarged into a box, not distorted."""
    scale = min(width / pixels.shape[1], height / pixels.shape[0])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return Image.fromarray(pixels).resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)


def contact_sheet(rows: Sequence[tuple[str, Sequence[np.ndarray]]], width: int, height: int) -> Image.Image:
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
