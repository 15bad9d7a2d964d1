"""What lies between the street and the sensor: the lens's distortion, and a windscreen with reflections and drops."""

from random import Random

import numpy as np
from scipy.ndimage import gaussian_filter

from tmt.synthetic.texture import CLOUD, GRAIN, SIDE, bank


def distortion_maps(size: tuple[int, int], amount: float) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel of a distorted picture of `size` (h, w), the row and the column it shows, int (h, w) each.

    `amount` is how far, relative to its radius, a corner moves: inwards above 0 (barrel), outwards below.
    """
    height, width = size
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    radius = (x * x + y * y) / 2
    # Scaled so that the picture stays filled: the corners, or the middle, keep their place.
    factor = (1 + amount * radius) / (1 + max(amount, 0.0))
    rows = np.clip(np.rint((y * factor + 1) * (height - 1) / 2), 0, height - 1).astype(np.intp)
    columns = np.clip(np.rint((x * factor + 1) * (width - 1) / 2), 0, width - 1).astype(np.intp)
    return rows, columns


def windscreen(picture: np.ndarray, strength: float, rng: Random) -> np.ndarray:
    """Reflections of the dashboard in the lower half, a veil of light, and dirt; picture float32 (H, W, 3)."""
    height, width = picture.shape[:2]
    rows = np.arange(height) * SIDE // height
    columns = np.arange(width) * SIDE // width
    shift = rng.randrange(SIDE)
    shapes = bank()[CLOUD][(rows[:, None] // 2 + shift) % SIDE, (columns[None, :] // 2 + shift) % SIDE]
    edge = np.clip((np.arange(height, dtype=np.float32) / height - rng.uniform(0.35, 0.6)) / 0.4, 0, 1)[:, None]
    tint = np.array([rng.uniform(0.75, 1.0) for _ in range(3)], dtype=np.float32)
    veil = strength * (rng.uniform(0.02, 0.08) + rng.uniform(0.05, 0.25) * edge * np.clip(0.5 + 0.5 * shapes, 0, 1))
    dirt = bank()[GRAIN][(rows[:, None] * 3) % SIDE, (columns[None, :] * 3 + shift) % SIDE] > 2.3
    clear = 1 - np.float32(0.35 * strength) * gaussian_filter(dirt.astype(np.float32), height / 120)
    return picture * clear[..., None] * (1 - 0.6 * veil[..., None]) + veil[..., None] * tint


def drops(picture: np.ndarray, wet: float, rng: Random) -> np.ndarray:
    """Rain drops on the glass: each shows the picture around it upside down and blurred."""
    height, width = picture.shape[:2]
    soft = gaussian_filter(picture, (height / 50, height / 50, 0), truncate=2.5)
    result = picture.copy()
    for _ in range(int(rng.uniform(40, 120) * wet)):
        radius = height * rng.uniform(0.012, 0.035)
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        top, bottom = max(0, int(cy - radius)), min(height, int(cy + radius) + 2)
        left, right = max(0, int(cx - radius)), min(width, int(cx + radius) + 2)
        y, x = np.mgrid[top:bottom, left:right]
        away = np.hypot(y - cy, (x - cx) * 1.25) / radius
        rows = np.clip(np.rint(cy - 5 * (y - cy)), 0, height - 1).astype(int)
        columns = np.clip(np.rint(cx - 5 * (x - cx)), 0, width - 1).astype(int)
        share = np.clip(1.6 * (1 - away), 0, 0.8)[..., None].astype(np.float32)
        shade = (0.8 + 0.4 * np.clip((cy - y) / radius, -1, 1))[..., None].astype(np.float32)
        result[top:bottom, left:right] *= 1 - share
        result[top:bottom, left:right] += share * soft[rows, columns] * shade
    return result
