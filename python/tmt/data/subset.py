"""Parts of a dataset, for work with few labels and to hold images out of training."""

from collections.abc import Iterable

import numpy as np

from tmt.data.files import Dataset, Sample
from tmt.errors import DataError


class Part:
    """The samples of a dataset at some indices, in the dataset's order."""

    def __init__(self, dataset: Dataset, indices: Iterable[int]):
        self.dataset = dataset
        self.label_set = dataset.label_set
        self.indices = sorted(int(index) for index in indices)
        self.names = [dataset.names[index] for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]

    def label(self, index: int) -> np.ndarray:
        """The label file alone, training ids (h, w) uint8."""
        return self.dataset.label(self.indices[index])


class Subset(Part):
    """`count` samples of a dataset, chosen by `seed`, in the dataset's order.

    Of one seed, a smaller subset is part of every larger one, so that results by count differ in what was added only.
    Raises DataError for a count that the dataset cannot give.
    """

    def __init__(self, dataset: Dataset, count: int, seed: int):
        if not 1 <= count <= len(dataset):
            raise DataError(f"subset: count must be in 1..{len(dataset)}, the images there are, got {count}")
        super().__init__(dataset, _order(dataset, seed)[:count])


def hold_out(dataset: Dataset, share: float, seed: int) -> tuple[Part, Part]:
    """What is trained on, and a share of a dataset, chosen by `seed`, that is held out of it; one image each at least.

    Raises DataError for a dataset of fewer than two images.
    """
    if len(dataset) < 2:
        raise DataError(
            f"hold_out: dataset must have at least 2 images, one to train on and one held out, got {len(dataset)}"
        )
    count = min(len(dataset) - 1, max(1, round(share * len(dataset))))
    order = _order(dataset, seed)
    return Part(dataset, order[count:]), Part(dataset, order[:count])


def _order(dataset: Dataset, seed: int) -> np.ndarray:
    return np.random.default_rng((seed, len(dataset))).permutation(len(dataset))
