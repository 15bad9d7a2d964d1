"""A dataset at a smaller size: every image of one height, as wide as its form asks."""

import numpy as np
from PIL import Image

from tmt.data.files import Dataset, Sample


class Resized:
    """The samples of a dataset at a height in pixels: images bilinear and antialiased, labels by nearest neighbour.

    For training; scores are taken at the labels' own size, for which inference has a height of its own.
    """

    def __init__(self, dataset: Dataset, height: int):
        self.dataset = dataset
        self.height = height
        self.label_set = dataset.label_set
        self.names = dataset.names

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        size = (self.width(sample.label.shape), self.height)
        image = Image.fromarray(sample.image).resize(size, Image.Resampling.BILINEAR)
        label = Image.fromarray(sample.label).resize(size, Image.Resampling.NEAREST)
        return Sample(np.array(image), np.array(label), sample.name)

    def label(self, index: int) -> np.ndarray:
        """The label as it is in its file, training ids (h, w) uint8."""
        return self.dataset.label(index)

    def width(self, size: tuple[int, ...]) -> int:
        """The width of an image of this size (height, width) once it has the height."""
        return max(1, round(size[1] * self.height / size[0]))


def resized(dataset: Dataset, height: int | None) -> Dataset:
    """A dataset at a height; as it is for None and 0."""
    return Resized(dataset, height) if height else dataset
