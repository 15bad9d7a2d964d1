"""What one method has over another: differences of their scores, paired by domains and seeds, with tests."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

from tmt.report.formats import Table, interval, p_value, signed
from tmt.report.scores import (
    EVALUATIONS,
    METRICS,
    WHICH,
    arrow,
    class_names,
    origin,
    scores_by_seed,
    seeds_of,
    titles,
    which_short,
)
from tmt.report.statistics import PairedTest, holm, paired_over_pairs, paired_over_seeds, paired_within_pairs, summarise
from tmt.studies import Pair, Study, Variant


@dataclass(frozen=True)
class Comparison:
    """One column against another: a paired test for each pair of domains, and one over the pairs."""

    first: Variant
    second: Variant
    metric: str
    evaluation: str
    by_pair: dict[Pair, PairedTest]
    over_pairs: PairedTest
    within_pairs: PairedTest


def compare(study: Study, first: Variant, second: Variant, metric: str, evaluation: str) -> Comparison:
    """First minus second, over the seeds that both have."""
    differences = {}
    for pair in study.pairs:
        ours, theirs = (scores_by_seed(study, column.name, pair, metric, evaluation) for column in (first, second))
        differences[pair] = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    by_pair = {pair: paired_over_seeds(values) for pair, values in differences.items()}
    over = paired_over_pairs([test.difference for test in by_pair.values()])
    within = paired_within_pairs(list(differences.values()))
    return Comparison(first, second, metric, evaluation, by_pair, over, within)


def comparisons(study: Study, metric: str = "miou", evaluation: str = "last") -> list[Comparison]:
    """TMT under each mask rule against every other method, in the study's order."""
    others, ours = study.with_role("baseline"), study.with_role("method")
    return [compare(study, first, second, metric, evaluation) for first in ours for second in others]


def ablations(study: Study, metric: str = "miou", evaluation: str = "last") -> list[Comparison]:
    """TMT against each ablation of the same mask rule, or of any where there is none of the same."""
    ours = study.with_role("method")
    found = []
    for column in (one for one in study.with_role("ablation") if one.uses_transferability):
        whole = next((full for full in ours if full.mask_rule == column.mask_rule), ours[0] if ours else None)
        if whole is not None:
            found.append(compare(study, whole, column, metric, evaluation))
    return found


def rules(study: Study, metric: str = "miou", evaluation: str = "last") -> list[Comparison]:
    """TMT under each mask rule against TMT under every later one, in the study's order."""
    return [compare(study, *two, metric, evaluation) for two in itertools.combinations(study.with_role("method"), 2)]


def gains(study: Study, metric: str = "miou", evaluation: str = "last") -> list[Comparison]:
    """Every column against full fine-tuning, plain and with as many target images and steps."""
    found = []
    for column in study.variants:
        wanted = budget(study, column)
        plain = next((one for one in study.variants if one.stage == "full" and study.changed(one) == wanted), column)
        if plain is not column:
            found.append(compare(study, column, plain, metric, evaluation))
    return found


def budget(study: Study, variant: Variant) -> dict[str, object]:
    """What a variant changes of the images and steps that a target model has."""
    return {name: value for name, value in study.changed(variant).items() if name.startswith("target.")}


def over_pairs_table(study: Study, found: list[Comparison], name: str, what: str) -> Table:
    """One row a comparison: the test over pairs."""
    corrected = holm([comparison.over_pairs.p for comparison in found])
    names = titles(study.variants)
    rows = []
    for comparison, p_holm in zip(found, corrected, strict=True):
        test = comparison.over_pairs
        rows.append((
            f"{names[comparison.first.name]} − {names[comparison.second.name]}", _rules(comparison),
            f"{test.count}", signed(test.difference), interval(test.low, test.high), p_value(test.p), p_value(p_holm),
            p_value(test.rank_p), f"{test.wins} of {test.count}", test.test,
        ))  # fmt: skip
    header = (
        "difference", "mask rule", "pairs", "mean", "95 % interval", "p (t)", "p (t, Holm)", "p (Wilcoxon)",
        "higher in", "test",
    )  # fmt: skip
    caption = (
        f"Difference of {_score_name(found)} in percentage points, over pairs of domains. Each pair counts "
        "once, by its mean over the seeds that both have. Two-sided paired t-test with Student's interval, and "
        "Wilcoxon's signed-rank test; Holm's correction over this table's rows. Pairs that share a domain are not "
        "independent, so the intervals are somewhat too narrow. "
        f"{origin(study)}"
    )
    return Table(name, f"{what}: {_score_short(found)}, over pairs", caption, header, tuple(rows))


def _rules(comparison: Comparison) -> str:
    """TMT's mask rule, or both where it is compared with itself under another."""
    compared = [comparison.first, comparison.second] if comparison.second.uses_transferability else [comparison.first]
    return ", ".join(dict.fromkeys(column.mask_rule for column in compared))


def gain_tables(study: Study) -> list[Table]:
    """What every variant gains over full fine-tuning on each pair, for studies that vary more than the method."""
    varied = study.with_role("ablation", "fraction")
    found = {which: gains(study, "miou", which) for which in EVALUATIONS if varied}
    return [_gain_table(study, own, which) for which, own in found.items() if own]


def _gain_table(study: Study, found: list[Comparison], which: str) -> Table:
    names = titles(study.variants)
    rows = []
    for one in found:
        test = one.within_pairs
        rows.append((
            names[one.first.name], one.first.mask_rule, names[one.second.name],
            *(signed(one.by_pair[pair].difference) for pair in study.pairs),
            signed(test.difference), interval(test.low, test.high), p_value(test.p), f"{test.wins} of {test.count}",
        ))  # fmt: skip
    caption = (
        f"Difference of {_score_name(found)} from full fine-tuning with as many target images and steps, in percentage "
        "points, paired by seed: mean over seeds on each pair, and over the pairs. Student's 95 % interval and "
        "two-sided p from the spread of seeds within pairs: what other seeds would give on these pairs, not what other "
        f"pairs would; not corrected for the number of rows. {origin(study)}"
    )
    header = (
        "variant", "mask rule", "compared with", *map(arrow, study.pairs), "mean", "95 % interval", "p", "higher in",
    )  # fmt: skip
    return Table(f"gains-{which}", f"Gains over full fine-tuning: {_score_short(found)}", caption, header, tuple(rows))


def by_pair_table(study: Study, comparison: Comparison, name: str) -> Table:
    """One row a pair: the test over seeds."""
    names = titles(study.variants)
    corrected = holm([test.p for test in comparison.by_pair.values()])
    rows = [
        (
            arrow(pair), f"{test.count}", signed(test.difference), interval(test.low, test.high), p_value(test.p),
            p_value(p_holm), test.test,
        )
        for (pair, test), p_holm in zip(comparison.by_pair.items(), corrected, strict=True)
    ]  # fmt: skip
    caption = (
        f"{names[comparison.first.name]} minus {names[comparison.second.name]} (mask rule of the first: "
        f"{comparison.first.mask_rule}): difference of {_score_name([comparison])} in percentage points, paired "
        f"by seed. Two-sided paired t-test, Student's 95 % interval, Holm's correction over this table's rows. "
        f"{origin(study)}"
    )
    header = ("source → target", "seeds", "mean", "95 % interval", "p (t)", "p (t, Holm)", "test")
    title = (
        f"{names[comparison.first.name]} − {names[comparison.second.name]}: {_score_short([comparison])}, over seeds"
    )
    return Table(name, title, caption, header, tuple(rows))


def _score_short(found: list[Comparison]) -> str:
    return f"{dict(METRICS)[found[0].metric]}, {which_short(found[0].evaluation)}" if found else "scores"


def _score_name(found: list[Comparison]) -> str:
    if not found:
        return "scores"
    return f"{dict(METRICS)[found[0].metric]} ({WHICH[found[0].evaluation]})"


def paired_tables(study: Study) -> list[Table]:
    """All paired tests: over pairs for each score and evaluation, over seeds for the mIoU."""
    found = [
        table for which in EVALUATIONS for metric, _ in METRICS for table in _over_pairs_tables(study, metric, which)
    ]
    for which in EVALUATIONS:
        for one in comparisons(study, "miou", which):
            name = f"tests-over-seeds-{one.first.name}-{one.second.name}-{which}"
            found.append(by_pair_table(study, one, name))
    return found


def _over_pairs_tables(study: Study, metric: str, which: str) -> list[Table]:
    against, end = comparisons(study, metric, which), f"{metric}-{which}"
    kinds = {
        f"tests-over-pairs-{rule}-{end}": (
            [one for one in against if one.first.mask_rule == rule], f"TMT ({rule} rule) against the other methods"
        )
        for rule in dict.fromkeys(one.first.mask_rule for one in against)
    }  # fmt: skip
    kinds[f"rule-tests-over-pairs-{end}"] = rules(study, metric, which), "TMT's mask rules against each other"
    kinds[f"ablation-tests-over-pairs-{end}"] = ablations(study, metric, which), "TMT against its ablations"
    return [over_pairs_table(study, found, name, what) for name, (found, what) in kinds.items() if found]


def class_gains(study: Study, first: Variant, second: Variant) -> dict[str, dict[Pair, float]]:
    """IoU of first minus second in percentage points, by class and pair: mean over the seeds that both have.

    A class that is not in a pair's ground truth, or in no model's result, is left out there.
    """
    gains: dict[str, dict[Pair, float]] = {name: {} for name in class_names(study)}
    for pair in study.pairs:
        seeds = set(seeds_of(study, first.name, pair)) & set(seeds_of(study, second.name, pair))
        results = [[study.targets[one.name, pair, seed].last for one in (first, second)] for seed in sorted(seeds)]
        for i, name in enumerate(gains):
            found = [_class_iou(ours, i) - _class_iou(theirs, i) for ours, theirs in results]
            summary = summarise(found)
            if summary.count:
                gains[name][pair] = summary.mean
    return gains


def _class_iou(scores: dict[str, Any], index: int) -> float:
    """IoU of a class; nan where it is not in the ground truth."""
    value = scores["iou"][index] if scores["pixels"][index] else None
    return math.nan if value is None else float(value)
