"""What LEEP and OTCE fine-tuning share: a first stage that maximises a transferability metric over labelled pixels.

A step of that stage counts as one of the target stage's steps, so that every method takes as many optimiser steps on
the same target images, under one learning rate schedule; the optimiser forgets its moments in between. Source images
that a metric looks at come on top. What trains is what full fine-tuning trains, as far as the metric depends on it.
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from tmt.data import IGNORE, TrainBatch
from tmt.model import TMTForSemanticSegmentation
from tmt.model.point_sampling import sample_features
from tmt.runtime.distributed import World
from tmt.runtime.precision import full, without_autocast

SMALLEST = 1e-12  # stands for 0 where it would be divided by, or its logarithm taken


class TransferMetric(nn.Module, ABC):
    """How well a model's features transfer, in nats, 0 at most. Its buffers are what a resumed run needs of it."""

    name: str
    sees_source: bool = False
    """Whether it compares source with target images, or looks at target images alone."""

    def __init__(self, pixels: int, batch_size: int):
        """`pixels` in each domain and step, drawn evenly from `batch_size` images over all processes."""
        super().__init__()
        self.pixels_per_image = math.ceil(pixels / batch_size)
        self.first: Tensor
        self.last: Tensor
        self.register_buffer("first", torch.tensor(math.nan, dtype=torch.float64))
        self.register_buffer("last", torch.tensor(math.nan, dtype=torch.float64))

    @abstractmethod
    def network(self, model: TMTForSemanticSegmentation) -> nn.Module:
        """The part of the segmentation model that it looks at, as a module: images (B, 3, H, W) to (B, C, h, w)."""

    @abstractmethod
    def score(self, values: Tensor, labels: Tensor, domains: Tensor, world: World) -> tuple[Tensor, Tensor]:
        """The metric of a step.

        Args:
            values: (n, C) float32, the network's output at this process's pixels.
            labels: (n,) int64 train ids, IGNORE where an image has no labelled pixel.
            domains: (n,) floating, 0 source, 1 target.
            world: all processes, each of which has as many pixels.

        Returns:
            A scalar with gradient, whose mean over processes is the metric, and the metric, the same on all processes;
            0 with a gradient of 0, and NaN, where there are no labelled pixels.
        """

    def forward(self, planes: Tensor, batch: TrainBatch, world: World) -> tuple[Tensor, float]:
        """The network's output (B, C, h, w) for a batch -> both parts of `score`; keeps the first and last value."""
        points, labels = labelled_pixels(batch["labels"], batch["sample_seeds"], self.pixels_per_image)
        domains = batch.get("domains", torch.ones(len(labels)))[:, None].expand_as(labels)
        with without_autocast(planes):
            values = sample_features(full(planes), points.to(planes.device)).transpose(1, 2).flatten(0, 1)
            labels, domains = labels.flatten().to(planes.device), domains.flatten().to(planes.device)
            score, value = self.score(values, labels, domains, world)
        self.last.copy_(value)
        if self.first.isnan():
            self.first.copy_(value)
        return score, float(value)

    def report(self, steps: int, batch_size: int) -> dict[str, Any]:
        """What a finished run says of its first stage of `steps` steps, as JSON values.

        `first` and `last` are of one batch each and as noisy as batches differ; LEEP's first one is high, too, since
        its estimate then comes from the same pixels alone. metrics.jsonl has every logged step's.
        """
        first, last = (
            None if math.isnan(value) else round(value, 4) for value in (self.first.item(), self.last.item())
        )
        seen = steps * batch_size * self.sees_source
        return {"name": self.name, "steps": steps, "first": first, "last": last, "source_images": seen}


def metric_steps(fraction: float, steps: int) -> int:
    """Steps of the first stage out of `steps` of both: the share `fraction`, rounded, at least 1 unless it is 0."""
    return min(steps, max(1, round(fraction * steps))) if fraction else 0


def labelled_pixels(labels: Tensor, seeds: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Random labelled pixels of each image, drawn with replacement, a function of its seed alone.

    Args:
        labels: (B, H, W) int64, IGNORE where not labelled.
        seeds: (B,) int64.
        count: pixels of each image.

    Returns:
        x and y in (0, 1) of their centres (B, count, 2) float32 on the CPU, and their labels (B, count) int64, IGNORE
        throughout where an image has none.
    """
    labels, (height, width) = labels.cpu(), labels.shape[-2:]
    points, found = torch.zeros(len(labels), count, 2), torch.full((len(labels), count), IGNORE)
    for i, seed in enumerate(seeds.tolist()):
        places = (labels[i].flatten() != IGNORE).nonzero()[:, 0]
        if len(places):
            drawn = places[torch.randint(len(places), (count,), generator=torch.Generator().manual_seed(seed))]
            points[i, :, 0] = (drawn % width + 0.5) / width
            points[i, :, 1] = (drawn // width + 0.5) / height
            found[i] = labels[i].flatten()[drawn]
    return points, found
