"""What a model makes of an image, as arrays to be drawn."""

import numpy as np
import torch
from torch import Tensor

from tmt.data import normalise
from tmt.inference.sliding_window import WHOLE, segment
from tmt.model import TMTForSemanticSegmentation
from tmt.settings import InferenceConfig
from tmt.visualize.panels import View


def look(model: TMTForSemanticSegmentation, image: np.ndarray, inference: InferenceConfig = WHOLE) -> View:
    """Apply a segmentation model in evaluation mode to an image (H, W, 3) uint8."""
    found = segment(model, normalise(image, model.scaling)[None].to(model.device), inference, maps=True)
    return View(found.prediction.to(torch.uint8).cpu().numpy(), _array(found.transferability), _array(found.regions))


def _array(plane: Tensor | None) -> np.ndarray | None:
    return None if plane is None else plane.cpu().numpy()
