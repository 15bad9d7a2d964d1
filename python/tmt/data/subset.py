"""A part of a dataset, for work with few labels."""

import numpy as np

from tmt.data.files import Dataset, Sample
from tmt.errors import DataError


class Subset:
    """`count` samples of a dataset, chosen by `seed`, in the dataset's order.

    Of one seed, a smaller subset is part of every larger one, so that results by count differ in what was added only.
    Raises DataError for a count that the dataset cannot give.
    """

    def __init__(self, dataset: Dataset, count: int, seed: int):
        if not 1 <= count <= len(dataset):
            raise DataError(f"subset: count must be in 1..{len(dataset)}, the images there are, got {count}")
        order = np.random.default_rng((seed, len(dataset))).permutation(len(dataset))
        self.dataset = dataset
        self.label_set = dataset.label_set
        self.indices = sorted(int(index) for index in order[:count])
        self.names = [dataset.names[index] for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]

    def label(self, index: int) -> np.ndarray:
        """The label file alone, training ids (h, w) uint8."""
        return self.dataset.label(self.indices[index])
