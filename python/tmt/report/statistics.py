"""Means, paired tests and rank correlations, with confidence intervals.

Differences are first minus second, in the unit of the values. A test that the data cannot carry is not made: its result
says why, and its numbers are nan.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
LEAST_SEEDS = 3
"""Of two seeds, a t interval is 12.7 standard errors wide on either side: no test is made below three."""
LEAST_FREEDOM = 3
"""Degrees of freedom: seeds beyond the first of each pair."""
LEAST_PAIRS = 6
"""The exact signed-rank test of five differences cannot fall below p = 0.0625."""


@dataclass(frozen=True)
class Summary:
    """Some values in short."""

    count: int
    mean: float
    """nan where there are none."""
    std: float
    """Sample standard deviation (n - 1); nan below two values."""


def summarise(values: Sequence[float]) -> Summary:
    """Mean and standard deviation of values (n,); nan counts as no value."""
    known = np.array([value for value in values if not math.isnan(value)], dtype=np.float64)
    mean = float(known.mean()) if len(known) else math.nan
    return Summary(len(known), mean, float(known.std(ddof=1)) if len(known) > 1 else math.nan)


@dataclass(frozen=True)
class PairedTest:
    """Whether differences have a mean other than 0."""

    test: str
    """Name of the test, or why none was made."""
    count: int
    difference: float
    """Mean difference; nan without values."""
    low: float
    """Lower end of the confidence interval of the mean difference (Student's t)."""
    high: float
    p: float
    """Two-sided p of the paired t-test."""
    rank_p: float
    """Two-sided p of the Wilcoxon signed-rank test, where it was asked for."""
    wins: int
    """Differences above 0."""

    @property
    def made(self) -> bool:
        """Whether there were values enough."""
        return not math.isnan(self.low)


def paired_over_seeds(differences: Sequence[float]) -> PairedTest:
    """Paired t-test of differences (n,), one a seed. Three values are too few for any test of ranks."""
    return _paired(differences, LEAST_SEEDS, "seeds", ranks=False)


def paired_over_pairs(differences: Sequence[float]) -> PairedTest:
    """Paired t-test and Wilcoxon signed-rank test of differences (n,), one a pair of domains.

    Pairs that share a domain are not independent, so the intervals are somewhat too narrow.
    """
    return _paired(differences, LEAST_PAIRS, "pairs", ranks=True)


def paired_within_pairs(differences: Sequence[Sequence[float]]) -> PairedTest:
    """t-test of the mean over these very pairs: for each pair its differences (seeds,), which may be of unlike number.

    The spread is that of a pair's seeds around their own mean, pooled over the pairs: the interval says what other
    seeds would give on the same pairs, and nothing of other pairs.
    """
    known = [np.array([value for value in values if not math.isnan(value)], dtype=np.float64) for values in differences]
    known = [values for values in known if len(values)]
    count, wins = sum(map(len, known)), sum(int((values > 0).sum()) for values in known)
    mean = float(np.mean([values.mean() for values in known])) if known else math.nan
    freedom = count - len(known)
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in known)
    if freedom < LEAST_FREEDOM:
        name = f"not enough seeds ({freedom} beyond one a pair, of {LEAST_FREEDOM})"
        return _no_test(name, count, mean, wins)
    if squares == 0:
        return _no_test("no spread, no test", count, mean, wins)
    error = math.sqrt(squares / freedom * sum(1 / len(values) for values in known)) / len(known)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, freedom))
    return PairedTest("t, seeds within pairs", count, mean, mean - half, mean + half, p, math.nan, wins)


def _no_test(why: str, count: int, mean: float, wins: int) -> PairedTest:
    return PairedTest(why, count, mean, math.nan, math.nan, math.nan, math.nan, wins)


def _paired(differences: Sequence[float], least: int, unit: str, ranks: bool) -> PairedTest:
    values = np.array([value for value in differences if not math.isnan(value)], dtype=np.float64)
    count, wins = len(values), int((values > 0).sum())
    mean = float(values.mean()) if count else math.nan
    if count < least:
        return _no_test(f"not enough {unit} ({count} of {least})", count, mean, wins)
    if np.ptp(values) == 0:
        return _no_test("no spread, no test", count, mean, wins)
    low, high = t_interval(values)
    student: Any = stats.ttest_1samp(values, 0.0)
    rank_p = _signed_rank(values) if ranks else math.nan
    name = "paired t, signed-rank" if ranks else "paired t"
    return PairedTest(name, count, mean, low, high, float(student.pvalue), rank_p, wins)


def t_interval(values: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Student's confidence interval of the mean of values (n,), n at least 2."""
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def _signed_rank(values: np.ndarray) -> float:
    with warnings.catch_warnings():  # zeros and ties: scipy falls back to the normal approximation, with a warning
        warnings.simplefilter("ignore")
        found: Any = stats.wilcoxon(values)
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values (n,) corrected for their number (Holm, 1979); nan stays nan and does not count."""
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[i] = largest
    return corrected


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation with a bootstrap interval."""

    rho: float
    """nan where one of the two variables does not vary."""
    low: float
    high: float
    groups: int
    count: int
    """Points, of all groups."""


def spearman(
    first: np.ndarray, second: np.ndarray, group: np.ndarray, resamples: int = 1000, seed: int = 0
) -> RankCorrelation:
    """Spearman's correlation of points that come in groups, such as the regions of images.

    Args:
        first, second: (n,) floating, the two variables.
        group: (n,) integers; points of one group are not independent, so the bootstrap draws whole groups.
        resamples: bootstrap samples; the interval is their 95 % percentile interval.
        seed: of the bootstrap.
    """
    members = np.unique(group, return_inverse=True)[1]
    groups = int(members.max()) + 1 if len(members) else 0
    one, other = (np.unique(values, return_inverse=True)[1] for values in (first, second))
    rho = _weighted(one, other, np.ones(len(members)))
    if groups < 2 or math.isnan(rho):
        return RankCorrelation(rho, math.nan, math.nan, groups, len(members))
    random = np.random.default_rng(seed)
    drawn = [np.bincount(random.integers(groups, size=groups), minlength=groups) for _ in range(resamples)]
    found = np.array([_weighted(one, other, times[members].astype(np.float64)) for times in drawn])
    low, high = np.nanquantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return RankCorrelation(rho, float(low), float(high), groups, len(members))


def _weighted(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> float:
    """Spearman's correlation where point i counts weights[i] times, without a sort for every bootstrap sample.

    first, second (n,): each value's place among the distinct values.
    """
    if not len(weights):
        return math.nan
    total = weights.sum()
    a, b = (_midranks(places, weights) for places in (first, second))
    a, b = (values - (values * weights).sum() / total for values in (a, b))
    spread = math.sqrt((a * a * weights).sum() * (b * b * weights).sum())
    return float((a * b * weights).sum() / spread) if spread > 0 else math.nan


def _midranks(places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    counts = np.bincount(places, weights)
    return (np.cumsum(counts) - counts / 2)[places]


def bootstrap_mean(values: np.ndarray, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of values (n,) by bootstrap; nan below two values."""
    if len(values) < 2:
        return math.nan, math.nan
    drawn = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[drawn].mean(1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
