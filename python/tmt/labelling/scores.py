"""What is known of an image's regions, and how much each deserves a label: the higher, the sooner."""

from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor

from tmt.data import normalise
from tmt.inference.sliding_window import at_height, enlarge, part_of, plan, segment
from tmt.labelling.regions import default_cell, superpixels
from tmt.model import TMTForSemanticSegmentation, present
from tmt.model.acte import transferability_map
from tmt.model.evidence import normalised_entropy
from tmt.settings import InferenceConfig, RegionScore

NEEDS_ESTIMATOR: dict[str, tuple[str, ...]] = {
    "divergence": ("domain", "conditional", "entropy", "error"),
    "conditional": ("conditional",),
    "conditional_entropy": ("conditional",),
}
"""The kinds of estimator that a score can be taken from; a score that is not here needs none."""


@dataclass(frozen=True)
class Seen:
    """The R regions of one image, all of one length."""

    pixels: np.ndarray
    """(R,) int64."""
    prediction: np.ndarray
    """(R,) int64, the class predicted in most of the region's pixels."""
    entropy: np.ndarray
    """(R,) float64 in [0, 1], mean over pixels of the entropy of the class scores, 1 where all classes are alike."""
    impurity: np.ndarray
    """(R,) float64 in [0, 1], entropy of the classes predicted in the region."""
    divergence: np.ndarray | None = None
    """(R,) float64 in [0, 1], mean of 1 - T; None where nobody asked."""


@torch.no_grad()
def see(
    model: TMTForSemanticSegmentation,
    image: np.ndarray,
    regions: np.ndarray,
    inference: InferenceConfig,
    judged: bool,
    name: str = "the image",
) -> Seen:
    """Apply a model in evaluation mode to an image (H, W, 3) uint8, and sum up what it says of its regions (H, W).

    `judged`: whether T is wanted, of the model's estimator, window by window. Raises TMTError, with the image's name,
    for scores that are not finite and an image that is too small.
    """
    pixels = normalise(image, model.scaling)[None].to(model.device)
    found = segment(model, pixels, inference, name=name, entropy=True)
    prediction, classes = found.prediction.cpu().numpy(), model.config.num_labels or 1
    count = np.bincount(regions.ravel())
    of_class = np.bincount((regions * classes + prediction).ravel(), minlength=len(count) * classes)
    shares = of_class.reshape(len(count), classes) / count[:, None]
    entropy = present(found.entropy).cpu().numpy()
    novelty = 1 - _transferability(model, pixels, inference) if judged else None
    return Seen(
        count,
        shares.argmax(1),
        _means(entropy, regions, count),
        normalised_entropy(torch.from_numpy(shares), 1).numpy(),
        None if novelty is None else _means(novelty, regions, count),
    )


def _means(plane: np.ndarray, regions: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.bincount(regions.ravel(), plane.ravel().astype(np.float64)) / count


def _transferability(model: TMTForSemanticSegmentation, pixels: Tensor, inference: InferenceConfig) -> np.ndarray:
    """pixels (1, 3, H, W) -> T (H, W) of each pixel, mean over the windows that see it, at the model's own height."""
    size = (pixels.shape[-2], pixels.shape[-1])
    total, once = np.zeros(size), replace(inference, scales=(1.0,), flip=False)
    for one in plan(size, at_height(once, model.config.image_height, size[0])):
        found = model.region_evidence(part_of(pixels, one))
        logits = model.estimator.judge(found.features, found.probabilities)
        part = enlarge(transferability_map(logits, found.labels), one.extent)[0].cpu().numpy()
        total[one.rows.slice, one.columns.slice] += part * np.outer(one.rows.share, one.columns.share)
    return total


def regions_of(image: np.ndarray, cell: int | None) -> np.ndarray:
    """An image's superpixels (H, W); `cell` None: `default_cell` of its height."""
    return superpixels(image, cell or default_cell(image.shape[0]))


def score(kind: RegionScore, seen: Seen, name: str, seed: int) -> np.ndarray:
    """(R,) float64, how much each region of the image of that name deserves a label."""
    if kind == "random":
        return _random(len(seen.pixels), name, seed)
    if kind in NEEDS_ESTIMATOR:
        assert seen.divergence is not None  # it was asked for
        return seen.divergence * seen.entropy if kind == "conditional_entropy" else seen.divergence
    return seen.impurity * seen.entropy if kind == "ripu" else seen.entropy


def _random(count: int, name: str, seed: int) -> np.ndarray:
    """Numbers in [0, 1) that hang on the image's name alone, not on which others there are."""
    digest = sha256(f"{seed} {name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little")).random(count)


def of_image(scores: np.ndarray, pixels: np.ndarray) -> float:
    """The score of a whole image: the mean over its pixels."""
    return float((scores * pixels).sum() / pixels.sum())
