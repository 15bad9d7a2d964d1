"""The tables of a study's scores: methods, ablations, p_T, estimators, attention."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from tmt.inference.metrics import HEADLINES
from tmt.report.formats import MISSING, Table, number, to_csv
from tmt.report.scores import (
    COMPARED,
    EVALUATIONS,
    METRICS,
    SOURCE_ONLY,
    WHICH,
    arrow,
    estimators,
    origin,
    scores_by_seed,
    titles,
    which_short,
)
from tmt.report.statistics import Summary, summarise
from tmt.studies import Result, Study, Variant


def cell(summary: Summary) -> str:
    """Mean, deviation and number of seeds; the deviation is left out where one seed has none."""
    if not summary.count:
        return MISSING
    spread = "" if math.isnan(summary.std) else f" ± {summary.std:.2f}"
    return f"{summary.mean:.2f}{spread} ({summary.count})"


def score_table(
    study: Study, columns: Sequence[Variant], metric: str, evaluation: str, name: str, source_only: bool = False
) -> Table:
    """Pairs by columns; the last row is the mean over the pairs that every column has."""
    title = dict(METRICS)[metric]
    named = {SOURCE_ONLY: "source only"} if source_only else {}
    named |= titles(columns)
    found = {
        (pair, column): summarise(list(scores_by_seed(study, column, pair, metric, evaluation).values()))
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
        f"of a row. {origin(study)}"
    )
    return Table(
        name, f"{title}, {which_short(evaluation)}", caption, ("source → target", *named.values()), tuple(rows), best
    )


def _highest(values: list[float]) -> list[int]:
    known = [value for value in values if not math.isnan(value)]
    return [i for i, value in enumerate(values) if value == max(known)] if len(known) > 1 else []


def rules(columns: Sequence[Variant]) -> str:
    """Which mask rule each column has, as a sentence."""
    by_rule: dict[str, list[str]] = {}
    for column in columns:
        by_rule.setdefault(column.mask_rule, []).append(column.title)
    parts = [f"{rule} ({', '.join(dict.fromkeys(names))})" for rule, names in by_rule.items()]
    return f"Mask rule: {'; '.join(parts)}."


def method_tables(study: Study) -> list[Table]:
    """Table 1: one table for each score and evaluation."""
    columns = study.with_role(*COMPARED)
    return [
        score_table(study, columns, metric, which, f"table1-{metric}-{which}", source_only=which == "last")
        for which in EVALUATIONS
        for metric, _ in METRICS
    ]


def ablation_tables(study: Study) -> list[Table]:
    """Table 2: rows are the whole method and its parts, columns the pairs, as in the paper."""
    parts = study.with_role("ablation")
    if not parts:
        return []
    columns = [column for column in study.with_role(*COMPARED) if column.stage in ("tmt", "full")] + parts
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


def fraction_points(study: Study) -> dict[str, list[Variant]]:
    """By mask rule, TMT's columns in order of p_T; rules with one p_T only are left out."""
    points: dict[str, list[Variant]] = {}
    for column in study.with_role("method", "fraction"):
        if column.uses_transferability:
            points.setdefault(column.mask_rule, []).append(column)
    ordered = {rule: sorted(columns, key=lambda c: c.transfer_fraction) for rule, columns in points.items()}
    return {rule: columns for rule, columns in ordered.items() if len(columns) > 1}


def fraction_tables(study: Study) -> list[Table]:
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


def estimator_table(study: Study) -> Table | None:
    """How well each discriminator tells the domains apart."""
    if not estimators(study):
        return None
    rows = [
        (
            arrow(result.pair), result.regions or MISSING, f"{result.seed}",
            _of(result, "accuracy", lambda value: f"{100 * value:.1f}"), _of(result, "proxy_a_distance"),
            _of(result, "transferability_source_mean"), _of(result, "transferability_target_mean"),
            _of(result, "transferability_target_std"),
        )
        for result in estimators(study)
    ]  # fmt: skip
    header = (
        "source → target", "regions", "seed", "accuracy %", "proxy A-distance", "T on source", "T on target",
        "std of T on target",
    )  # fmt: skip
    caption = (
        "The domain discriminator on validation images of both domains: mean accuracy over the two domains (50 is "
        "chance), proxy A-distance 2(1 − 2ε) (0 alike, 2 told apart), and the transferability T of regions. Where the "
        f"accuracy is near 100, T is near 0 all over the target and says little. {origin(study)}"
    )
    return Table("estimators", "Domain discriminators", caption, header, tuple(rows))


def _of(result: Result, name: str, shown: Callable[[float], str] = number) -> str:
    value = (result.estimator or {}).get(name)
    return MISSING if value is None else shown(float(value))


def attention_table(study: Study) -> Table | None:
    """What the masked attention let through, where TMT logged it."""
    rows = [_attention_row(study, variant) for variant in study.variants if variant.uses_transferability]
    rows = [row for row in rows if row]
    if not rows:
        return None
    header = (
        "variant", "mask rule", "models", "allowed %", "least", "most", "fallback %",
    )  # fmt: skip
    caption = (
        "Share of positions that queries may attend before the fallback, and share of queries with nowhere to attend "
        "that fell back: means over decoder layers and models, from the last logged training step; least and most "
        f"allowed of any model. {origin(study)}"
    )
    return Table("attention", "What masked attention lets through", caption, header, tuple(rows))


def _attention_row(study: Study, variant: Variant) -> tuple[str, ...]:
    """A variant's row; empty where it logged nothing."""
    own = [result for result in study.targets.values() if result.variant == variant.name and result.allowed_fraction]
    if not own:
        return ()
    allowed = [_mean(result.allowed_fraction or ()) for result in own]
    fallback = [_mean(result.fallback_rate or ()) for result in own]
    shares = (_mean(allowed), min(allowed), max(allowed), _mean(fallback))
    return variant.title, variant.mask_rule, f"{len(own)}", *(number(100 * share, 1) for share in shares)


def _mean(values: Sequence[float]) -> float:
    return summarise(list(values)).mean


def all_scores_csv(study: Study) -> str:
    """Every score of every model, one a row: the numbers behind all tables."""
    rows = []
    for result in study.finished.values():
        if result.kind == "target":
            for which in EVALUATIONS:
                rows += _score_rows(result, result.target, result.variant, which, getattr(result, which))
        for domain, scores in (result.on or {}).items():
            rows += _score_rows(result, domain, SOURCE_ONLY, "last", scores)
    header = (
        "job", "source", "target", "variant", "mask_rule", "seed", "evaluation", "step", "metric", "percent", "images",
        "revision",
    )  # fmt: skip
    return to_csv(header, rows)


def _score_rows(
    result: Result, target: str | None, variant: str, which: str, scores: dict[str, Any]
) -> list[tuple[object, ...]]:
    return [
        (
            result.id, result.source, target, variant, result.mask_rule, result.seed, which, scores.get("step"), metric,
            scores.get(metric), scores.get("images"), result.revision,
        )
        for metric, _ in HEADLINES
    ]  # fmt: skip
