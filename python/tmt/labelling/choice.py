"""Which regions of all images are labelled: the best that a budget allows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tmt.errors import ConfigError


@dataclass(frozen=True)
class Budget:
    """How much is labelled: a share of all pixels, or a number of regions."""

    share: float | None = None
    """In (0, 1]."""
    count: int | None = None

    @classmethod
    def of(cls, text: str) -> "Budget":
        """From a setting: `2.2%` of all pixels, or `500` regions. Raises ConfigError for anything else."""
        if match := re.fullmatch(r"(\d{1,3}(?:\.\d*)?|\.\d+)\s*%", text.strip()):
            share = float(match[1]) / 100
            if 0 < share <= 1:
                return cls(share=share)
        elif re.fullmatch(r"\d{1,12}", text.strip()) and int(text) > 0:
            return cls(count=int(text))
        raise ConfigError(f"budget: must be a share of all pixels such as 2.2%, or a number of regions, got {text}")


@dataclass(frozen=True)
class Candidate:
    """The regions of one image that may be picked."""

    regions: np.ndarray
    """(n,) int64, their numbers."""
    scores: np.ndarray
    """(n,) float64."""
    pixels: np.ndarray
    """(n,) int64."""


def choose(candidates: Sequence[Candidate], budget: Budget, all_pixels: int) -> list[tuple[int, int]]:
    """The picks, (image, region), best first: from the highest score down for as long as the budget lasts.

    Of equal scores, the first image and region come first. `all_pixels`: what a share is a share of. Raises ConfigError
    where not one region fits, or none may be picked.
    """
    image = np.repeat(np.arange(len(candidates)), [len(one.scores) for one in candidates])
    if not len(image):
        raise ConfigError("labelled: must leave something to be labelled, got labels in every region of every image")
    regions, scores, pixels = (
        np.concatenate([getattr(one, name) for one in candidates]) for name in ("regions", "scores", "pixels")
    )
    order = np.argsort(-scores, kind="stable")
    if budget.count is not None:
        return _pairs(image, regions, order[: budget.count])
    allowed = int((budget.share or 0) * all_pixels * (1 + 1e-12))  # 2.9 % of 1000 are 29
    fitting = int(np.searchsorted(pixels[order].cumsum(), allowed, side="right"))
    if not fitting:
        raise ConfigError(
            f"budget: must hold the first region, of {pixels[order[0]]} pixels, got {budget.share:.4%} of "
            f"{all_pixels}, which is {allowed}; raise it, or choose smaller regions with --cell"
        )
    return _pairs(image, regions, order[:fitting])


def _pairs(image: np.ndarray, regions: np.ndarray, order: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(image[order].tolist(), regions[order].tolist(), strict=True))
