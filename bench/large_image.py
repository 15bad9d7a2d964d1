"""What `python -m tmt.predict` of a large image needs beyond the model: python -m bench.large_image.

The peak resident size of the command on an image of 2943x1435 pixels and 150 classes, less that of the same command on
an image of 64x64: libraries, the model and its start are in both. A map of all scores would be 2.5 GB by itself.
Prints a table and writes it to bench/results/large_image.{json,md}.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from tmt.data.labels import with_default_colours
from tmt.model.factory import new_model
from tmt.settings import ModelConfig, TMTSettings

from . import models, origin, tables

WIDTH, HEIGHT, CLASSES = 2943, 1435, 150
GOAL = 1.5  # GB, at most
SMALL = 64


def main() -> None:
    found = {name: measure(sizes) for name, sizes in {"Swin-T": models.SWIN, "demo": models.preset("demo")}.items()}
    tables.keep_page({"environment": origin.cpu(), "GB": found}, lines(found), "large_image")


def measure(sizes: ModelConfig) -> float:
    """GB beyond the model, with T, by a new model of these sizes."""
    label_set = with_default_colours(tuple(f"class {i}" for i in range(CLASSES)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        new_model(sizes, TMTSettings(), seed=0, label_set=label_set).save_pretrained(folder / "model")
        pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "large.png")
        Image.fromarray(pixels[:SMALL, :SMALL]).save(folder / "small.png")
        small, large = (_peak(folder, image) for image in ("small", "large"))
    return (large - small) / 1e9


def _peak(folder: Path, image: str) -> float:
    """Bytes resident at the peak of predicting one image."""
    command = [sys.executable, "-m", "tmt.predict", str(folder / "model"), str(folder / f"{image}.png")]
    process = subprocess.Popen(
        [*command, "--out", str(folder / image)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, f"{' '.join(command)}: exit status {status}"
    return used.ru_maxrss * 1024


def lines(found: dict[str, float]) -> list[str]:
    """Markdown."""
    head = [
        f"`python -m tmt.predict` of {WIDTH}x{HEIGHT} pixels and {CLASSES} classes, whole, with T, float32.",
        "",
        "| model | GB beyond the model | goal |",
        "| --- | --- | --- |",
    ]
    aim = {True: "met", False: "**missed**"}
    return [*head, *(f"| {name} | {gb:.2f} | <= {GOAL} GB: {aim[gb <= GOAL]} |" for name, gb in found.items())]


if __name__ == "__main__":
    main()
