"""Images that nobody has labelled."""

import numpy as np

from tmt.data.files import Listing, Sample, read_image, require_files
from tmt.data.labels import IGNORE, LabelSet


def read_unlabelled(listing: Listing, index: int) -> Sample:
    """An image of a listing and a label that says nothing. Raises DataError where it cannot be read."""
    image = read_image(listing.images[index])
    return Sample(image, np.full(image.shape[:2], IGNORE, np.uint8), listing.names[index])


class Unlabelled:
    """The images of a listing, every pixel of them without a label.

    They are turned upright where their EXIF orientation asks for it. Raises DataError on construction for the first
    that is missing, on reading for one that cannot be read.
    """

    def __init__(self, listing: Listing, label_set: LabelSet):
        self.listing = listing
        self.images = require_files(listing.images, listing.image_mend)
        self.label_set = label_set
        self.names = listing.names

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return read_unlabelled(self.listing, index)

    def label(self, index: int) -> np.ndarray:
        """All pixels of an image as ignored, (H, W) uint8."""
        return self[index].label
