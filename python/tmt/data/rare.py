"""Rare-class sampling (DAFormer): draw a class, rare ones more often, then an image and a crop that show it."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from tmt.data.files import Dataset
from tmt.errors import DataError

MIN_SHARE = 3000 / (1280 * 720)  # of an image's pixels, from which on it counts as showing a class
CACHE_VERSION = 1


@dataclass(frozen=True)
class RareClasses:
    """How often each class is asked for, and which images can show it."""

    probabilities: np.ndarray  # (K,) float64, sum 1
    images: tuple[np.ndarray, ...]  # of each class, int64 indices of the images to choose from
    min_share: float = MIN_SHARE / 2  # of a crop's pixels that should be of the class

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """A class and the index of an image that shows it."""
        wanted = int(rng.choice(len(self.probabilities), p=self.probabilities))
        return wanted, int(rng.choice(self.images[wanted]))


def rare_classes(counts: np.ndarray, temperature: float = 0.01, min_share: float = MIN_SHARE) -> RareClasses:
    """From the pixels of each class in each image, int64 (n, K): P(c) = softmax((1 - f_c) / temperature).

    f_c is the share of class c among all labelled pixels; classes that no image has are never drawn.

    Of a class, those images count that hold it on `min_share` of their labelled pixels; if none does, all that have it.
    """
    if not temperature > 0:
        raise DataError(f"rare_classes: temperature must be above 0, got {temperature}")
    if not counts.sum():
        raise DataError("rare_classes: labels must hold a class, got only ignored pixels")
    share = counts.sum(0) / counts.sum()
    present = counts.sum(0) > 0
    weights = np.where(present, np.exp((share[present].min() - share) / temperature), 0.0)
    enough = counts >= min_share * np.maximum(counts.sum(1, keepdims=True), 1)
    enough &= counts > 0
    images = tuple(np.flatnonzero(many if many.any() else some) for many, some in zip(enough.T, counts.T, strict=True))
    return RareClasses(weights / weights.sum(), images, min_share / 2)


@dataclass(frozen=True)
class _Counts(TorchDataset):
    """A dataset's pixels per class, image by image."""

    dataset: Dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> np.ndarray | DataError:
        try:
            label, classes = self.dataset.label(index), len(self.dataset.label_set)
        except DataError as error:
            return error
        return np.bincount(label.ravel(), minlength=256)[:classes]


def class_counts(
    dataset: Dataset, cache: str | Path | None = None, workers: int = 0, progress: bool = True
) -> np.ndarray:
    """Pixels of each class in each image, int64 (n, K), counted in parallel by `workers` processes.

    With `cache`, a JSON file, they are counted once: it is read if it is of this dataset's classes and names, else
    written. Raises DataError for what reading the labels raises.
    """
    key = _key(dataset)
    if cache and (found := _load(Path(cache), key)) is not None:
        return found
    loader = DataLoader(_Counts(dataset), batch_size=None, num_workers=workers, generator=torch.Generator())
    shown = tqdm(loader, "counting classes", unit="label", disable=not progress)
    counts = np.stack([np.asarray(raised(row)) for row in shown])
    if cache:
        _store(Path(cache), key, counts)
    return counts


T = TypeVar("T")


def raised(result: T | DataError) -> T:
    """What a worker returned, or the DataError it returned raised; one that a worker raises loses its single line."""
    if isinstance(result, DataError):
        raise result
    return result


def _key(dataset: Dataset) -> str:
    text = json.dumps([CACHE_VERSION, list(dataset.label_set.names), dataset.names])
    return hashlib.sha256(text.encode()).hexdigest()


def _load(path: Path, key: str) -> np.ndarray | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return np.array(content["counts"], dtype=np.int64) if content["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _store(path: Path, key: str, counts: np.ndarray) -> None:
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        part.write_text(json.dumps({"key": key, "counts": counts.tolist()}), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise DataError(f"class_counts: cache {path} must be writable, got {error.strerror}; choose another") from error
