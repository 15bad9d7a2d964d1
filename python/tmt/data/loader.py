"""Batches for training and evaluation.

Training sample number p (= step * batch + place in the batch) is a pure function of (seed, p): the same for every
number of workers and of processes, and after a resume.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from tmt.data.files import Dataset
from tmt.data.labelled import require_classes
from tmt.data.labels import IGNORE
from tmt.data.rare import RareClasses, raised
from tmt.data.transforms import GREY, IMAGENET, Augment, Scaling, Wanted, normalise, normalise_planes, pad
from tmt.errors import DataError


class Sample8Bit(TypedDict):
    """One augmented training sample."""

    pixel_values: Tensor  # (3, h, w) uint8
    labels: Tensor  # (h, w) uint8
    sample_seeds: int
    names: str
    extents: tuple[int, int]  # height and width of the image in it; the rest is padding


class EvalBatch(TypedDict):
    """b images as they are."""

    pixel_values: Tensor  # (b, 3, H, W) float32, normalised
    labels: Tensor  # (b, H, W) int64 train ids
    names: list[str]


class MaybeThere(TypedDict, total=False):
    """What some batches have."""

    domains: Tensor  # (b,) float, 0 source, 1 target; of batches of both
    extents: Tensor  # (b, 2) int64, height and width of the image in each; without it, there is no padding


class TrainBatch(EvalBatch, MaybeThere):
    """b augmented images of one size."""

    sample_seeds: Tensor  # (b,) int64, of everything random in an image's loss


# Separate streams of random numbers drawn from one seed.
_ORDER, _AUGMENT, _LOSS, _RARE = 0, 1, 2, 3


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, length: int) -> np.ndarray:
    """The order in which an epoch visits a dataset of `length` samples, int64 (length,)."""
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(length)


def sample_seed(seed: int, position: int) -> int:
    """The seed of everything random in the loss of training sample `position`, in [0, 2^63)."""
    return int(np.random.SeedSequence((seed, _LOSS, position)).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True)
class TrainSamples(TorchDataset):
    """The endless sequence of augmented training samples, a batch of them by a list of positions."""

    dataset: Dataset
    augment: Augment
    seed: int

    rare: RareClasses | None = None

    def __getitem__(self, positions: list[int]) -> TrainBatch | DataError:
        """The batch of the samples at some positions, or what is wrong with one of them."""
        try:
            return collate([self.sample(position) for position in positions])
        except DataError as error:
            return error

    def sample(self, position: int) -> Sample8Bit:
        """The training sample at a position."""
        index, wanted, rng = self._choose(position)
        sample = self.dataset[index]
        image, label = self.augment.cut(sample.image, sample.label, rng, wanted)
        extents = (label.shape[0], label.shape[1])
        image, label = pad(image, self.augment.crop, GREY), pad(label, self.augment.crop, IGNORE)
        return {
            "pixel_values": torch.from_numpy(image).permute(2, 0, 1),
            "labels": torch.from_numpy(label),
            "sample_seeds": sample_seed(self.seed, position),
            "names": sample.name,
            "extents": extents,
        }

    def _choose(self, position: int) -> tuple[int, Wanted | None, np.random.Generator]:
        """Which image comes at `position`, what its crop should show, and the generator of its augmentation."""
        if self.rare:
            rng = np.random.default_rng((self.seed, _RARE, position))
            wanted, index = self.rare.draw(rng)
            return index, Wanted(wanted, self.rare.min_share), rng
        epoch, place = divmod(position, len(self.dataset))
        index = int(epoch_order(self.seed, epoch, len(self.dataset))[place])
        return index, None, np.random.default_rng((self.seed, _AUGMENT, epoch, index))


@dataclass(frozen=True)
class Positions:
    """The positions of one process's part of each global batch, step by step."""

    batch_size: int  # global
    start_step: int
    steps: int  # the step after the last one
    rank: int
    world_size: int

    def __len__(self) -> int:
        return max(0, self.steps - self.start_step)

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch_size // self.world_size
        for step in range(self.start_step, self.steps):
            first = step * self.batch_size + self.rank * share
            yield list(range(first, first + share))


def collate(samples: list[Sample8Bit]) -> TrainBatch:
    """Stacks samples into a batch of 8-bit tensors."""
    return {
        "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
        "labels": torch.stack([sample["labels"] for sample in samples]),
        "sample_seeds": torch.tensor([sample["sample_seeds"] for sample in samples], dtype=torch.int64),
        "names": [sample["names"] for sample in samples],
        "extents": torch.tensor([sample["extents"] for sample in samples], dtype=torch.int64),
    }


def finish(batch: TrainBatch, device: torch.device | str | None, scaling: Scaling = IMAGENET) -> TrainBatch:
    """A batch of 8-bit tensors as training wants it: pixel_values float32, normalised, labels int64, on `device`."""
    pixels, labels = (part.to(device, non_blocking=True) for part in (batch["pixel_values"], batch["labels"]))
    return {**batch, "pixel_values": normalise_planes(pixels, scaling), "labels": labels.to(torch.int64)}


def train_batches(
    dataset: Dataset,
    augment: Augment,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    steps: int = 1,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    rare: RareClasses | None = None,
    device: torch.device | str | None = None,
    scaling: Scaling = IMAGENET,
    labelled: bool = True,
) -> Iterator[TrainBatch]:
    """The batches of steps `start_step` .. `steps` - 1, of which process `rank` gets a contiguous 1 / `world_size`.

    `batch_size` is that of all processes together; `scaling` is that of the model (`model.scaling`).
    The global random state of torch is left alone.
    Pixels and labels are on `device`, None being the CPU; 8-bit numbers go there and are scaled there, an eighth of the
    bytes in the memory that loader processes share.
    With `rare` there are no epochs: each position draws a class, then one of its images and a crop that shows it.
    Raises DataError if the dataset is empty, or without any label unless `labelled` is False, or the batch cannot be
    split evenly.
    """
    if not len(dataset):
        raise DataError("train_batches: dataset must hold samples, got none")
    if batch_size < 1 or batch_size % world_size:
        raise DataError(
            f"train_batches: batch_size must be a positive multiple of the {world_size} processes, got {batch_size}"
        )
    if labelled:
        require_classes(dataset, "train_batches")
    loader = DataLoader(
        TrainSamples(dataset, augment, seed, rare),
        batch_size=None,  # TrainSamples collates
        sampler=Positions(batch_size, start_step, steps, rank, world_size),
        num_workers=workers,
        generator=torch.Generator(),  # else the loader draws from the global one
    )
    return (finish(raised(batch), device, scaling) for batch in loader)


def eval_batches(
    dataset: Dataset, rank: int = 0, world_size: int = 1, scaling: Scaling = IMAGENET
) -> Iterator[EvalBatch]:
    """Every `world_size`-th sample from `rank` on, unchanged, one by one, scaled as the model wants it."""
    for index in range(rank, len(dataset), world_size):
        sample = dataset[index]
        yield {
            "pixel_values": normalise(sample.image, scaling)[None],
            "labels": torch.from_numpy(sample.label.astype(np.int64))[None],
            "names": [sample.name],
        }
