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
        label = Image.fromarray(sample.label).resize(at_height(sample.label, self.height), Image.Resampling.NEAREST)
        return Sample(resized_image(sample.image, self.height), np.array(label), sample.name)

    def label(self, index: int) -> np.ndarray:
        """The label as it is in its file, training ids (h, w) uint8."""
        return self.dataset.label(index)


def resized(dataset: Dataset, height: int | None) -> Dataset:
    """A dataset at a height; as it is for None and 0."""
    return Resized(dataset, height) if height else dataset


def resized_image(image: np.ndarray, height: int | None) -> np.ndarray:
    """An image (H, W, 3) uint8 at a height, bilinear and antialiased; as it is for None and 0."""
    if not height:
        return image
    return np.array(Image.fromarray(image).resize(at_height(image, height), Image.Resampling.BILINEAR))


def at_height(pixels: np.ndarray, height: int) -> tuple[int, int]:
    """Width and height of pixels (H, W, ...) once they have the height."""
    return max(1, round(pixels.shape[1] * height / pixels.shape[0])), height
