"""What each class weighs in the loss."""

from .configuration import TMTConfig


def weights_by_class(config: TMTConfig) -> list[float]:
    return [1.0] * (config.num_labels or 0)
