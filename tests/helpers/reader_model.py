"""A stand-in for a segmentation model that reads the answer from the image, so that predictions are known exactly."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, one_hot

from tmt.data import CITYSCAPES19, LabelSet
from tmt.data.transforms import MEAN, STD
from tmt.settings import TMTSettings

STEP = 10  # the red channel is the class times this


def encode(classes: np.ndarray) -> np.ndarray:
    """An image (H, W, 3) uint8 that shows the classes (H, W)."""
    green = np.arange(classes.size, dtype=np.uint8).reshape(classes.shape)
    return np.stack([classes * STEP, green, 255 - green], axis=-1).astype(np.uint8)


class Reader(nn.Module):
    """Scores each pixel by what the image says there; its T is brighter where the class is higher."""

    def __init__(self, label_set: LabelSet = CITYSCAPES19):
        super().__init__()
        names = dict(enumerate(label_set.names))
        self.config = SimpleNamespace(
            id2label=names, num_labels=len(names), palette=label_set.palette.tolist(), decoder_layers=3,
            settings=TMTSettings(mask_rule="uncertain"),
        )  # fmt: skip
        self.device = torch.device("cpu")
        self.seen: list[tuple[int, int]] = []

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        """pixel_values (1, 3, H, W) -> what `segment` takes from a model's output."""
        self.seen.append(tuple(pixel_values.shape[-2:]))
        red = pixel_values[:, 0] * float(STD[0]) + float(MEAN[0])
        classes = (red / STEP).round().long().clamp(0, self.config.num_labels - 1)
        return SimpleNamespace(
            classes=classes,
            transferability=classes / self.config.num_labels,
            region_labels=classes,
            allowed_fraction=torch.tensor([[0.25, 0.75]]),
            fallback_rate=torch.tensor([[0.0, 0.5]]),
        )

    def semantic_probabilities(self, outputs: SimpleNamespace, size: tuple[int, int]) -> Tensor:
        """(1, K, H, W), 0.9 for the class that the image shows and the rest for the others."""
        share = 0.1 / (self.config.num_labels - 1)
        scores = share + (0.9 - share) * one_hot(outputs.classes, self.config.num_labels).movedim(-1, 1).float()
        return interpolate(scores, size=size, mode="bilinear", align_corners=False)
