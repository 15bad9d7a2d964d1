"""From the scores of all images to the picks of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from tmt.labelling.choice import Budget, Candidate, choose
from tmt.labelling.images import Earlier, ToLabel
from tmt.labelling.scores import Seen, of_image, regions_of, score
from tmt.labelling.scoring import Scoring
from tmt.settings import LabelConfig


class Pick(NamedTuple):
    """One region to be labelled."""

    rank: int
    """From 1, the best."""
    region: int
    pixels: int
    prediction: int
    """The class predicted in most of it."""
    score: float


@dataclass(frozen=True)
class Picks:
    """What was chosen."""

    of: dict[int, list[Pick]]
    """By the image's place, in the order of images; those without picks are not there."""
    count: int
    pixels: int
    all_pixels: int
    """Of all images, picked or not."""


@dataclass(frozen=True)
class Picking:
    """How regions are chosen."""

    config: LabelConfig
    images: Sequence[ToLabel]
    earlier: Earlier

    def run(self, scoring: Scoring, budget: Budget) -> Picks:
        """Choose among what `scoring` has seen. Raises ConfigError for a budget that holds nothing, DataError for
        earlier labels that cannot be used."""
        seen = [scoring.seen(image) for image in self.images]
        pairs = zip(self.images, seen, strict=True)
        with tqdm(pairs, "choose", len(seen), unit="image") as bar:  # closed before an error is told
            candidates = [self._candidate(*pair) for pair in bar]
        all_pixels = sum(int(one.pixels.sum()) for one in seen)
        found: dict[int, list[Pick]] = {}
        for rank, (image, region) in enumerate(choose(candidates, budget, all_pixels), start=1):
            pick = self._pick(rank, region, candidates[image], seen[image])
            found.setdefault(image, []).append(pick)
        each = [pick.pixels for picks in found.values() for pick in picks]
        return Picks(dict(sorted(found.items())), len(each), sum(each), all_pixels)

    def regions(self, pixels: np.ndarray) -> np.ndarray:
        """The regions (H, W) of an image (H, W, 3) that may be picked; of the score `images` the image, region 0."""
        if self.config.picks_images:
            return np.zeros(pixels.shape[:2], dtype=np.int64)
        return regions_of(pixels, self.config.cell)

    def _candidate(self, image: ToLabel, seen: Seen) -> Candidate:
        scores, pixels = score(self.config.region_score, seen, image.name, self.config.seed), seen.pixels
        if self.config.picks_images:
            scores, pixels = np.array([of_image(scores, pixels)]), pixels.sum(keepdims=True)
        numbers = np.arange(len(scores))
        if self.earlier.has(image):
            numbers = np.flatnonzero(~self.earlier.touched(image, self.regions(image.read())))
        return Candidate(numbers, scores[numbers], pixels[numbers])

    def _pick(self, rank: int, region: int, candidate: Candidate, seen: Seen) -> Pick:
        place = int(np.searchsorted(candidate.regions, region))
        weights = seen.pixels if self.config.picks_images else np.arange(len(seen.pixels)) == region
        prediction = int(np.bincount(seen.prediction, weights).argmax())
        return Pick(rank, region, int(candidate.pixels[place]), prediction, float(candidate.scores[place]))
