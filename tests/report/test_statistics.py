"""Statistics of the report against values worked out by hand and by other ways through scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from tmt.report.statistics import (
    bootstrap_mean,
    holm,
    paired_over_pairs,
    paired_over_seeds,
    paired_within_pairs,
    spearman,
    summarise,
)


def test_mean_and_sample_deviation():
    found = summarise([1.0, 2.0, 6.0, math.nan])
    assert (found.count, found.mean) == (3, 3.0)
    assert found.std == pytest.approx(math.sqrt(7))  # (4 + 1 + 9) / 2


def test_one_value_has_no_deviation_and_none_has_no_mean():
    assert math.isnan(summarise([5.0]).std)
    assert summarise([]).count == 0
    assert math.isnan(summarise([]).mean)


def test_t_test_by_hand():
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt 3, t = 2 sqrt 3 with 2 degrees of freedom."""
    found = paired_over_seeds([1.0, 2.0, 3.0])
    t = 2 * math.sqrt(3)
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t * t))  # the closed form for 2 degrees of freedom
    assert (found.high - found.low) / 2 == pytest.approx(4.302652729911275 / math.sqrt(3))
    assert (found.difference, found.wins, found.count) == (2.0, 3, 3)
    assert math.isnan(found.rank_p)


def test_over_pairs_is_scipys_paired_tests():
    random = np.random.default_rng(0)
    ours, theirs = random.normal(1, 1, 20), random.normal(0, 1, 20)
    found = paired_over_pairs(ours - theirs)
    related = stats.ttest_rel(ours, theirs)
    assert found.p == pytest.approx(related.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(related.confidence_interval(0.95)))
    assert found.rank_p == pytest.approx(stats.wilcoxon(ours, theirs).pvalue)


def test_five_pairs_could_never_be_significant_by_ranks():
    """Which is why no test over pairs is made below six."""
    assert stats.wilcoxon([1, 2, 3, 4, 5]).pvalue == 0.0625
    found = paired_over_pairs([1.0, 2.0, 3.0, 4.0, 5.0])
    assert not found.made
    assert found.test == "not enough pairs (5 of 6)"
    assert found.difference == 3.0


def test_within_one_pair_is_the_test_over_its_seeds():
    values = [1.0, 2.0, 4.0, 1.5]
    found, plain = paired_within_pairs([values]), paired_over_seeds(values)
    assert (found.difference, found.low, found.high, found.p) == pytest.approx(
        (plain.difference, plain.low, plain.high, plain.p)
    )


def test_within_pairs_is_the_linear_model_of_pair_means():
    """Least squares with one mean a pair: pairs far apart do not widen the interval, seeds may be of unlike number."""
    differences = [[1.0, 1.4, 0.9], [-20.0, -19.5], [30.0], [5.0, 5.2, 5.9, 5.3]]
    pair = np.repeat(np.arange(4), [3, 2, 1, 4])
    design, values = np.eye(4)[pair], np.concatenate(differences)
    means, squares, *_ = np.linalg.lstsq(design, values, rcond=None)
    contrast = np.full(4, 0.25)
    variance = squares[0] / 6 * contrast @ np.linalg.inv(design.T @ design) @ contrast
    found = paired_within_pairs([*differences, [], [math.nan]])
    assert found.difference == pytest.approx(contrast @ means)
    assert (found.high - found.low) / 2 == pytest.approx(stats.t.ppf(0.975, 6) * math.sqrt(variance))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(found.difference) / math.sqrt(variance), 6))
    assert (found.count, found.wins) == (10, 8)


@pytest.mark.parametrize("values", [[], [[], []], [[1.0], [2.0], [3.0], [4.0]], [[1.0, 2.0, 3.0], [1.0]]])
def test_not_enough_seeds_within_pairs(values):
    found = paired_within_pairs(values)
    assert found.test.startswith("not enough seeds") and not found.made
    assert math.isnan(found.p)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0], [1.0, 2.0, math.nan]])
def test_not_enough_seeds(values):
    found = paired_over_seeds(values)
    assert found.test.startswith("not enough seeds")
    assert all(map(math.isnan, (found.low, found.high, found.p)))


def test_equal_differences_make_no_test():
    found = paired_over_seeds([0.5, 0.5, 0.5])
    assert (found.test, found.difference, found.made) == ("no spread, no test", 0.5, False)


def test_holm_by_hand():
    """Sorted 0.01, 0.03, 0.04 times 3, 2, 1, never falling."""
    assert holm([0.04, 0.01, math.nan, 0.03])[:2] == pytest.approx([0.06, 0.03])
    assert math.isnan(holm([0.04, math.nan])[1])
    assert holm([0.04, 0.01, 0.03])[2] == pytest.approx(0.06)


def test_spearman_with_ties_is_scipys():
    random = np.random.default_rng(1)
    first, second = random.integers(0, 6, 200), random.normal(size=200).round(1)
    found = spearman(first, second, np.arange(200) // 10)
    assert found.rho == pytest.approx(stats.spearmanr(first, second).statistic)
    assert (found.groups, found.count) == (20, 200)


def test_bootstrap_draws_whole_groups_as_a_plain_bootstrap_does():
    """The weighted way against ranks made anew for every sample, from the same draws."""
    random = np.random.default_rng(2)
    group = np.repeat(np.arange(12), 5)
    first = random.normal(size=60)
    second = first + random.normal(size=60) + random.normal(size=12)[group]
    found = spearman(first, second, group, resamples=300, seed=7)
    draws = np.random.default_rng(7)
    plain = []
    for _ in range(300):
        points = np.concatenate([np.flatnonzero(group == g) for g in draws.integers(12, size=12)])
        plain.append(stats.spearmanr(first[points], second[points]).statistic)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])))
    assert found.low < found.rho < found.high


def test_perfect_and_undefined_correlations():
    group = np.arange(5)
    assert spearman(np.arange(5.0), np.arange(5.0) ** 3, group).rho == pytest.approx(1)
    assert spearman(np.arange(5.0), -np.arange(5.0), group).rho == pytest.approx(-1)
    assert math.isnan(spearman(np.ones(5), np.arange(5.0), group).rho)
    empty = spearman(np.zeros(0), np.zeros(0), np.zeros(0, dtype=int))
    assert math.isnan(empty.rho)
    assert empty.count == 0


def test_one_group_has_no_interval():
    found = spearman(np.arange(4.0), np.arange(4.0), np.zeros(4, dtype=int))
    assert found.rho == pytest.approx(1)
    assert math.isnan(found.low)


def test_interval_of_a_mean():
    low, high = bootstrap_mean(np.array([0.0, 1.0] * 50))
    assert low == pytest.approx(0.4, abs=0.03)
    assert high == pytest.approx(0.6, abs=0.03)
    assert math.isnan(bootstrap_mean(np.array([1.0]))[0])
