"""The tables of a study: scores of every method, ablations, p_T, paired tests, estimators."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tmt.metrics import HEADLINES
from tmt.report.statistics import (
    PairedTest,
    Summary,
    holm,
    summarise,
    test_over_pairs,
    test_over_seeds,
    test_within_pairs,
)
from tmt.report.study import EVALUATIONS, SOURCE_ONLY, Column, Pair, StudyView, arrow, titles
from tmt.report.table import MISSING, Table, interval, number, p_value, signed, to_csv

METRICS = HEADLINES[:3]
WHICH = {"last": "last evaluation", "best": "best evaluation on the validation split"}


@dataclass(frozen=True)
class Comparison:
    """One column against another: a paired test for each pair of domains, and one over the pairs."""

    first: Column
    second: Column
    metric: str
    evaluation: str
    by_pair: dict[Pair, PairedTest]
    over_pairs: PairedTest
    within_pairs: PairedTest


def compare(study: StudyView, first: Column, second: Column, metric: str, evaluation: str) -> Comparison:
    """First minus second, over the seeds that both have."""
    differences = {}
    for pair in study.pairs:
        ours, theirs = (study.scores(column.name, pair, metric, evaluation) for column in (first, second))
        differences[pair] = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    by_pair = {pair: test_over_seeds(values) for pair, values in differences.items()}
    over = test_over_pairs([test.difference for test in by_pair.values()])
    within = test_within_pairs(list(differences.values()))
    return Comparison(first, second, metric, evaluation, by_pair, over, within)


def comparisons(study: StudyView, metric: str = "miou", evaluation: str = "last") -> list[Comparison]:
    """TMT under each mask rule against every other method, in the study's order."""
    methods = study.with_role("method")
    plain = [column for column in methods if not column.uses_transferability]
    ours = [column for column in methods if column.uses_transferability]
    return [compare(study, first, second, metric, evaluation) for first in ours for second in plain]


def ablations(study: StudyView, metric: str = "miou", evaluation: str = "last") -> list[Comparison]:
    """TMT against each ablation of the same mask rule, or of any where there is none of the same."""
    ours = [column for column in study.with_role("method") if column.uses_transferability]
    found = []
    for column in (one for one in study.with_role("ablation") if one.uses_transferability):
        whole = next((full for full in ours if full.mask_rule == column.mask_rule), ours[0] if ours else None)
        if whole is not None:
            found.append(compare(study, whole, column, metric, evaluation))
    return found


def gains(study: StudyView, metric: str = "miou", evaluation: str = "last") -> list[Comparison]:
    """Every column against full fine-tuning, plain and with as many target images and steps."""
    found = []
    for column in study.columns:
        plain = next((one for one in study.columns if one.stage == "full" and one.settings == column.budget), column)
        if plain is not column:
            found.append(compare(study, column, plain, metric, evaluation))
    return found


def cell(summary: Summary) -> str:
    """Mean, deviation and number of seeds; the deviation is left out where one seed has none."""
    if not summary.count:
        return MISSING
    spread = "" if math.isnan(summary.std) else f" ± {summary.std:.2f}"
    return f"{summary.mean:.2f}{spread} ({summary.count})"


def score_table(
    study: StudyView, columns: Sequence[Column], metric: str, evaluation: str, name: str, source_only: bool = False
) -> Table:
    """Pairs by columns; the last row is the mean over the pairs that every column has."""
    title = dict(METRICS)[metric]
    named = {SOURCE_ONLY: "source only"} if source_only else {}
    named |= titles(columns)
    found = {
        (pair, column): summarise(list(study.scores(column, pair, metric, evaluation).values()))
        for pair in study.pairs
        for column in named
    }
    rows = [(arrow(pair), *(cell(found[pair, column]) for column in named)) for pair in study.pairs]
    judged = [column for column in named if any(found[pair, column].count for pair in study.pairs)]
    common = [pair for pair in study.pairs if judged and all(found[pair, column].count for column in judged)]
    means = {column: summarise([found[pair, column].mean for pair in common]).mean for column in named}
    counted = f"mean over {len(common)} of {len(study.pairs)} pairs"
    rows.append((counted, *(number(means[column]) for column in named)))
    highest = [_highest([found[pair, column].mean for column in named]) for pair in study.pairs]
    highest.append(_highest(list(means.values())))
    best = frozenset((y, x + 1) for y, places in enumerate(highest) for x in places)
    caption = (
        f"{title} in percent, {WHICH[evaluation]}, on the target's validation images; mean ± standard deviation over "
        f"(n) seeds. The last row takes the pairs that every column with results has. {rules(columns)} Bold: highest "
        f"of a row. {study.origin}"
    )
    return Table(
        name, f"{title}, {which_short(evaluation)}", caption, ("source → target", *named.values()), tuple(rows), best
    )


def _highest(values: list[float]) -> list[int]:
    known = [value for value in values if not math.isnan(value)]
    return [i for i, value in enumerate(values) if value == max(known)] if len(known) > 1 else []


def rules(columns: Sequence[Column]) -> str:
    """Which mask rule each column has, as a sentence."""
    by_rule: dict[str, list[str]] = {}
    for column in columns:
        by_rule.setdefault(column.mask_rule, []).append(column.title)
    parts = [f"{rule} ({', '.join(dict.fromkeys(names))})" for rule, names in by_rule.items()]
    return f"Mask rule: {'; '.join(parts)}."


def method_tables(study: StudyView) -> list[Table]:
    """Table 1: one table for each score and evaluation."""
    columns = study.with_role("method")
    return [
        score_table(study, columns, metric, which, f"table1-{metric}-{which}", source_only=which == "last")
        for which in EVALUATIONS
        for metric, _ in METRICS
    ]


def ablation_tables(study: StudyView) -> list[Table]:
    """Table 2: rows are the whole method and its parts, columns the pairs, as in the paper."""
    parts = study.with_role("ablation")
    if not parts:
        return []
    columns = [column for column in study.with_role("method") if column.stage in ("tmt", "full")] + parts
    return [
        _turned(score_table(study, columns, metric, which, f"table2-{metric}-{which}"))
        for which in EVALUATIONS
        for metric, _ in METRICS
    ]


def _turned(table: Table) -> Table:
    """Rows and columns exchanged; what stands out does so in its column."""
    grid = [table.header, *table.rows]
    rows = tuple(tuple(row[x] for row in grid) for x in range(1, len(table.header)))
    best = frozenset((x - 1, y + 1) for y, x in table.best)
    caption = table.caption.replace("last row", "last column").replace("of a row", "of a column")
    header = ("variant", *(row[0] for row in table.rows))
    return Table(table.name, table.title, caption, header, rows, best)


def fraction_points(study: StudyView) -> dict[str, list[Column]]:
    """By mask rule, TMT's columns in order of p_T; rules with one p_T only are left out."""
    points: dict[str, list[Column]] = {}
    for column in study.with_role("method", "fraction"):
        if column.uses_transferability:
            points.setdefault(column.mask_rule, []).append(column)
    ordered = {rule: sorted(columns, key=lambda c: c.transfer_fraction) for rule, columns in points.items()}
    return {rule: columns for rule, columns in ordered.items() if len(columns) > 1}


def fraction_tables(study: StudyView) -> list[Table]:
    """Figure 7 in numbers: scores by p_T."""
    tables = []
    for rule, columns in fraction_points(study).items():
        for which in EVALUATIONS:
            table = score_table(study, columns, "miou", which, f"figure7-{rule}-{which}")
            header = (table.header[0], *(f"p_T = {column.transfer_fraction:g}" for column in columns))
            tables.append(
                Table(table.name, f"{table.title}, by p_T ({rule} rule)", table.caption, header, table.rows, table.best)
            )
    return tables


def over_pairs_table(study: StudyView, found: list[Comparison], name: str, what: str) -> Table:
    """One row a comparison: the test over pairs."""
    corrected = holm([comparison.over_pairs.p for comparison in found])
    names = titles(study.columns)
    rows = []
    for comparison, p_holm in zip(found, corrected, strict=True):
        test = comparison.over_pairs
        rows.append((
            f"{names[comparison.first.name]} − {names[comparison.second.name]}", comparison.first.mask_rule,
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
        f"{study.origin}"
    )
    return Table(name, f"{what}: {_score_short(found)}, over pairs", caption, header, tuple(rows))


def gain_tables(study: StudyView) -> list[Table]:
    """What every variant gains over full fine-tuning on each pair, for studies that vary more than the method."""
    varied = study.with_role("ablation", "fraction")
    return [_gain_table(study, gains(study, "miou", which), which) for which in EVALUATIONS if varied]


def _gain_table(study: StudyView, found: list[Comparison], which: str) -> Table:
    names = titles(study.columns)
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
        f"pairs would; not corrected for the number of rows. {study.origin}"
    )
    header = (
        "variant", "mask rule", "compared with", *map(arrow, study.pairs), "mean", "95 % interval", "p", "higher in",
    )  # fmt: skip
    return Table(f"gains-{which}", f"Gains over full fine-tuning: {_score_short(found)}", caption, header, tuple(rows))


def by_pair_table(study: StudyView, comparison: Comparison, name: str) -> Table:
    """One row a pair: the test over seeds."""
    names = titles(study.columns)
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
        f"{study.origin}"
    )
    header = ("source → target", "seeds", "mean", "95 % interval", "p (t)", "p (t, Holm)", "test")
    title = (
        f"{names[comparison.first.name]} − {names[comparison.second.name]}: {_score_short([comparison])}, over seeds"
    )
    return Table(name, title, caption, header, tuple(rows))


def which_short(evaluation: str) -> str:
    """An evaluation in two words."""
    return f"{evaluation} evaluation"


def _score_short(found: list[Comparison]) -> str:
    return f"{dict(METRICS)[found[0].metric]}, {which_short(found[0].evaluation)}" if found else "scores"


def _score_name(found: list[Comparison]) -> str:
    if not found:
        return "scores"
    return f"{dict(METRICS)[found[0].metric]} ({WHICH[found[0].evaluation]})"


def test_tables(study: StudyView) -> list[Table]:
    """All paired tests: over pairs for each score and evaluation, over seeds for the mIoU."""
    found = []
    for which in EVALUATIONS:
        for metric, _ in METRICS:
            against, parts = comparisons(study, metric, which), ablations(study, metric, which)
            for rule in dict.fromkeys(one.first.mask_rule for one in against):
                own = [one for one in against if one.first.mask_rule == rule]
                name = f"tests-over-pairs-{rule}-{metric}-{which}"
                found.append(over_pairs_table(study, own, name, f"TMT ({rule} rule) against the other methods"))
            if parts:
                name = f"ablation-tests-over-pairs-{metric}-{which}"
                found.append(over_pairs_table(study, parts, name, "TMT against its ablations"))
    for which in EVALUATIONS:
        for one in comparisons(study, "miou", which):
            name = f"tests-over-seeds-{one.first.name}-{one.second.name}-{which}"
            found.append(by_pair_table(study, one, name))
    return found


test_tables.__test__ = False  # pytest collects by name, wherever it is imported


def estimator_table(study: StudyView) -> Table | None:
    """How well each discriminator tells the domains apart."""
    if not study.estimators:
        return None
    rows = [
        (
            arrow((result.source, result.target)), result.regions or MISSING, f"{result.seed}",
            _of(result, "accuracy", lambda value: f"{100 * value:.1f}"), _of(result, "proxy_a_distance"),
            _of(result, "transferability_source_mean"), _of(result, "transferability_target_mean"),
            _of(result, "transferability_target_std"),
        )
        for result in study.estimators
    ]  # fmt: skip
    header = (
        "source → target", "regions", "seed", "accuracy %", "proxy A-distance", "T on source", "T on target",
        "std of T on target",
    )  # fmt: skip
    caption = (
        "The domain discriminator on validation images of both domains: mean accuracy over the two domains (50 is "
        "chance), proxy A-distance 2(1 − 2ε) (0 alike, 2 told apart), and the transferability T of regions. Where the "
        f"accuracy is near 100, T is near 0 all over the target and says little. {study.origin}"
    )
    return Table("estimators", "Domain discriminators", caption, header, tuple(rows))


def _of(result: object, name: str, shown: Callable[[float], str] = number) -> str:
    value = (result.estimator or {}).get(name)
    return MISSING if value is None else shown(float(value))


def attention_table(study: StudyView) -> Table | None:
    """What the masked attention let through, where TMT logged it."""
    rows = []
    for column in study.columns:
        logged = [
            r
            for r in study.results
            if r.kind == "target" and r.variant == column.name and r.allowed_fraction and column.uses_transferability
        ]
        if logged:
            allowed = [_mean(result.allowed_fraction) for result in logged]
            fallback = [_mean(result.fallback_rate or ()) for result in logged]
            rows.append((
                column.title, column.mask_rule, f"{len(logged)}", number(100 * _mean(allowed), 1),
                number(100 * min(allowed), 1), number(100 * max(allowed), 1), number(100 * _mean(fallback), 1),
            ))  # fmt: skip
    if not rows:
        return None
    header = (
        "variant", "mask rule", "models", "allowed %", "least", "most", "fallback %",
    )  # fmt: skip
    caption = (
        "Share of positions that queries may attend before the fallback, and share of queries with nowhere to attend "
        "that fell back: means over decoder layers and models, from the last logged training step; least and most "
        f"allowed of any model. {study.origin}"
    )
    return Table("attention", "What masked attention lets through", caption, header, tuple(rows))


def _mean(values: Sequence[float]) -> float:
    return summarise(list(values)).mean


def all_scores_csv(study: StudyView) -> str:
    """Every score of every model, one a row: the numbers behind all tables."""
    rows = []
    for result in study.results:
        if result.kind == "target":
            for which in EVALUATIONS:
                for metric, _ in HEADLINES:
                    scores = getattr(result, which)
                    rows.append((
                        result.id, result.source, result.target, result.variant, result.mask_rule, result.seed, which,
                        scores.get("step"), metric, scores.get(metric), scores.get("images"), result.revision,
                    ))  # fmt: skip
        for domain, scores in (result.on or {}).items():
            for metric, _ in HEADLINES:
                rows.append((
                    result.id, result.source, domain, SOURCE_ONLY, result.mask_rule, result.seed, "last",
                    scores.get("step"), metric, scores.get(metric), scores.get("images"), result.revision,
                ))  # fmt: skip
    header = (
        "job", "source", "target", "variant", "mask_rule", "seed", "evaluation", "step", "metric", "percent", "images",
        "revision",
    )  # fmt: skip
    return to_csv(header, rows)


def class_gains(study: StudyView, first: Column, second: Column) -> dict[str, dict[Pair, float]]:
    """IoU of first minus second in percentage points, by class and pair: mean over the seeds that both have.

    A class that is not in a pair's ground truth, or in no model's result, is left out there.
    """
    gains: dict[str, dict[Pair, float]] = {name: {} for name in study.class_names()}
    for pair in study.pairs:
        seeds = set(study.seeds_of(first.name, pair)) & set(study.seeds_of(second.name, pair))
        results = [[study.result(column.name, pair, seed).last for column in (first, second)] for seed in sorted(seeds)]
        for i, name in enumerate(gains):
            found = [_class_iou(ours, i) - _class_iou(theirs, i) for ours, theirs in results]
            summary = summarise(found)
            if summary.count:
                gains[name][pair] = summary.mean
    return gains


def _class_iou(scores: dict[str, object], index: int) -> float:
    """IoU of a class; nan where it is not in the ground truth."""
    value = scores["iou"][index] if scores["pixels"][index] else None
    return math.nan if value is None else float(value)
