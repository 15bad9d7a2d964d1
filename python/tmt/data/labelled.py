"""Whether labels say anything: training and scoring need pixels that have a class."""

from tmt.data.files import Dataset
from tmt.data.labels import IGNORE
from tmt.errors import DataError


def require_classes(dataset: Dataset, what: str) -> None:
    """Raises DataError where no pixel of a dataset, called `what`, has a class, and what reading labels raises.

    Labels are read until one has: as a rule the first.
    """
    if not any((dataset.label(index) != IGNORE).any() for index in range(len(dataset))):
        raise DataError(
            f"{what}: labels must give a pixel a class, got {IGNORE} alone in all {len(dataset)}; see them with "
            "`python -m tmt.data check`, and at the table that maps their ids"
        )
