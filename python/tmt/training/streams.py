"""Streams of training batches: from any step to any other, each batch a function of its step alone."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from tmt.data import IMAGENET, Augment, Dataset, RareClasses, Scaling, TrainBatch, train_batches
from tmt.data.loader import MaybeThere
from tmt.runtime.distributed import World
from tmt.runtime.seeding import derive
from tmt.settings import AugmentConfig, Config


@dataclass(frozen=True)
class Stream:
    """This process's share of the augmented images of a dataset."""

    dataset: Dataset
    augment: Augment
    batch_size: int
    """Images over all processes."""
    seed: int
    world: World
    workers: int
    rare: RareClasses | None = None
    scaling: Scaling = IMAGENET
    labelled: bool = True
    """Whether the labels are used."""

    def __call__(self, first: int, last: int) -> Iterator[TrainBatch]:
        """The batches of the steps `first` .. `last` - 1."""
        return train_batches(
            self.dataset, self.augment, self.batch_size, self.seed, first, last, self.world.rank, self.world.size,
            self.workers, self.rare, scaling=self.scaling, labelled=self.labelled,
        )  # fmt: skip


def stream(
    config: Config,
    world: World,
    dataset: Dataset,
    batch_size: int,
    name: str,
    rare: RareClasses | None = None,
    *,
    scaling: Scaling,
    labelled: bool = True,
) -> Stream:
    """A stream by a run's settings, scaled as the model wants it; streams of one name and dataset give every method the
    same images."""
    seed = derive(config.seed, "data", name)
    augment, workers = augmentation(config.augment), config.data.workers
    return Stream(dataset, augment, batch_size, seed, world, workers, rare, scaling, labelled)


@dataclass(frozen=True)
class Pairs:
    """As many images of the source as of the target in each batch."""

    source: Stream
    target: Stream

    def __call__(self, first: int, last: int) -> Iterator[TrainBatch]:
        """The batches of the steps `first` .. `last` - 1."""
        for source, target in zip(self.source(first, last), self.target(first, last), strict=True):
            yield joined(source, target)


def joined(source: TrainBatch, target: TrainBatch) -> TrainBatch:
    """Two batches as one: every tensor (b, ...) as (2b, ...), and each image's domain (2b,), 0 source."""
    extents = [batch["extents"] for batch in (source, target) if "extents" in batch]
    both: MaybeThere = {"extents": torch.cat(extents)} if len(extents) == 2 else {}
    return {
        "pixel_values": torch.cat([source["pixel_values"], target["pixel_values"]]),
        "labels": torch.cat([source["labels"], target["labels"]]),
        "sample_seeds": torch.cat([source["sample_seeds"], target["sample_seeds"]]),
        "domains": torch.arange(2).repeat_interleave(len(source["labels"])).float(),
        "names": [*source["names"], *target["names"]],
        **both,
    }


def augmentation(augment: AugmentConfig) -> Augment:
    """The augmentation that the settings describe."""
    return Augment(
        crop=augment.crop,
        scale=augment.scale,
        max_class_share=augment.max_class_share,
        jitter_probability=augment.jitter,
        flip_probability=augment.flip,
    )
