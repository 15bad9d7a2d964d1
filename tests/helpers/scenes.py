"""Tiny two-domain data in the Cityscapes layout: a road below a sky with boxes on it, in two palettes."""

from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 48, 96
IDS = ROAD, BUILDING, POLE, SKY, CAR = 7, 11, 17, 23, 26  # Cityscapes label ids
COLOURS = {
    "source": ((90, 90, 90), (150, 90, 70), (30, 30, 30), (120, 170, 230), (170, 20, 20)),
    "target": ((60, 70, 50), (90, 80, 120), (90, 90, 60), (200, 190, 180), (30, 60, 150)),
}


def draw(domain: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) uint8 and its label ids (H, W) uint8."""
    rng = np.random.default_rng(seed)
    label = np.full((HEIGHT, WIDTH), SKY, dtype=np.uint8)
    label[rng.integers(20, 30) :] = ROAD
    left = rng.integers(0, WIDTH - 30)
    label[rng.integers(5, 15) : 24, left : left + 30] = BUILDING
    label[8:32, rng.integers(0, WIDTH - 3)] = POLE
    left = rng.integers(0, WIDTH - 20)
    label[30:42, left : left + 20] = CAR
    colours = np.zeros((256, 3), dtype=np.int64)
    colours[list(IDS)] = COLOURS[domain]
    noisy = colours[label] + rng.integers(-25, 26, (HEIGHT, WIDTH, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8), label


def write(root: Path, domain: str, train: int = 6, val: int = 3) -> Path:
    """Write a dataset of `domain` at `root` and return `root`."""
    for split, count, first in (("train", train, 0), ("val", val, 1000)):
        images, labels = root / "leftImg8bit" / split / "city", root / "gtFine" / split / "city"
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for i in range(count):
            image, label = draw(domain, first + i)
            stem = f"city_{i:06d}_000000"
            Image.fromarray(image).save(images / f"{stem}_leftImg8bit.png")
            Image.fromarray(label).save(labels / f"{stem}_gtFine_labelIds.png")
    return root
