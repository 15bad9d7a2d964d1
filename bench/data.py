"""What a training sample costs and where it goes: python -m bench.data [--cityscapes ROOT] [--json FILE].

Without roots (`--cityscapes`, `--bdd100k`), synthetic sets of the real sizes are drawn first: 2048 x 1024 PNG and
1280 x 720 JPEG. Crops are 512 x 1024, as in the paper's preset. The loop of 16 loader processes and batches of 16 per
0.5 s is fed if a sample costs one process at most 0.5 s.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench import origin
from tmt.data import Augment, Dataset, open_dataset, train_batches
from tmt.data.files import decode, read_bytes
from tmt.data.loader import TrainSamples, collate, finish
from tmt.data.transforms import jitter
from tmt.synthetic import make

SIZES = {"cityscapes": (1024, 2048), "bdd100k": (720, 1280)}
BUDGET = 0.5  # seconds a sample may cost one process
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.data", description=__doc__)
    for name in SIZES:
        parser.add_argument(f"--{name}", help="folder of the real dataset; none: synthetic scenes of its size")
    parser.add_argument("--images", type=int, default=6, help="images of each set that are drawn and timed")
    parser.add_argument("--rounds", type=int, default=5, help="times each stage is timed on each image")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="loader processes for the throughput")
    parser.add_argument("--steps", type=int, default=10, help="batches of 16 for the throughput")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    record = {"environment": origin.cpu(), "sets": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, size in SIZES.items():
            given = getattr(arguments, name)
            root = given or make(name, Path(folder) / name, arguments.images, 1, size)
            dataset = open_dataset(name, root, "train")
            title = f"{name}{'' if given else ' (synthetic)'}, {size[1]} x {size[0]}"
            record["sets"][title] = measure(dataset, title, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


def measure(dataset: Dataset, title: str, arguments: argparse.Namespace) -> dict[str, object]:
    """Times everything on one dataset and prints it."""
    augment, count = Augment(), min(arguments.images, len(dataset))
    stages = {name: median(calls, arguments.rounds) for name, calls in stage_calls(dataset, augment, count).items()}
    print(f"\n{title}: one process, milliseconds a sample (median of {arguments.rounds} x {count})")
    for name, value in stages.items():
        print(f"  {name:<58} {value:8.2f}")
    cost = stages["whole sample"] / 1e3
    print(f"  a sample costs {cost:.3f} s of the {BUDGET} s that 16 processes have for a batch of 16 per {BUDGET} s")
    rates = {workers: throughput(dataset, augment, workers, arguments.steps) for workers in (0, arguments.workers)}
    for workers, rate in rates.items():
        print(f"  {rate:.1f} samples a second with {workers} loader processes, {BATCH / rate:.2f} s a batch of {BATCH}")
    return {"milliseconds": stages, "samples_per_second": rates}


def stage_calls(dataset: Dataset, augment: Augment, count: int) -> dict[str, list[Callable[[], object]]]:
    """Each stage of a sample, as calls, one for each image."""
    samples, pairs = TrainSamples(dataset, augment, seed=0), [dataset[index] for index in range(count)]
    ready = samples.sample(0)
    crop = Image.fromarray(np.ascontiguousarray(ready["pixel_values"].permute(1, 2, 0).numpy()))
    matrix = augment._colour_matrix(np.random.default_rng(0))
    steady = {"jitter_probability": 0.0, "flip_probability": 0.0}
    plain = Augment(**steady)
    return {
        "image: read, checksums, decode": [lambda i=i: picture(dataset.images[i]) for i in range(count)],
        "image: the same by pillow alone": [lambda i=i: by_pillow(dataset.images[i]) for i in range(count)],
        "label: read, checksums, decode, ids to training ids": [lambda i=i: dataset.label(i) for i in range(count)],
        "resize and crop both, largest class <= 75 %": [
            lambda i=i: plain(pairs[i].image, pairs[i].label, np.random.default_rng(i)) for i in range(count)
        ],
        "colour jitter": [lambda: jitter(crop, matrix)],
        "colour jitter and flip by kornia, on the crop": [kornia_calls(ready["pixel_values"])],
        "stack a batch of 16": [lambda: collate([ready] * BATCH)],
        "normalise, in the training process": [lambda: finish(collate([ready]), None)],
        "whole sample": [lambda p=p: samples.sample(p) for p in range(count)],
    }


def picture(path: Path) -> np.ndarray:
    """An image's pixels."""
    return decode(read_bytes(path), path).pixels


def by_pillow(path: Path) -> np.ndarray:
    """An image's pixels, read the usual way."""
    with Image.open(path) as file:
        return np.array(file)


def kornia_calls(planes: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Kornia's jitter with the specification's ranges and a flip, of a crop uint8 (3, h, w)."""
    from kornia import augmentation

    transform = augmentation.AugmentationSequential(
        augmentation.ColorJiggle(0.125, 0.5, 0.5, 0.05, p=1.0), augmentation.RandomHorizontalFlip(p=1.0)
    )
    return lambda: transform(planes[None].to(torch.float32) / 255)


def median(calls: list[Callable[[], object]], rounds: int) -> float:
    """Median milliseconds of some calls, each once to warm up and `rounds` times after that."""
    times = []
    for call in calls:
        call()
        for _ in range(rounds):
            start = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def throughput(dataset: Dataset, augment: Augment, workers: int, steps: int) -> float:
    """Samples a second from a running loader whose batches are taken at once, after those that start it up."""
    ahead = 1 + 2 * workers
    batches = train_batches(dataset, augment, BATCH, seed=0, steps=ahead + steps, workers=workers)
    for _ in range(ahead):
        next(batches)
    start = time.perf_counter()
    for _ in batches:
        pass
    return BATCH * steps / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
