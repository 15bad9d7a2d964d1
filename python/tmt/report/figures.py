"""The charts of a study, each from its results alone."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from tmt.report import distance
from tmt.report.comparisons import Comparison, class_gains, comparisons
from tmt.report.formats import interval, number, signed
from tmt.report.scores import (
    COMPARED,
    EVALUATIONS,
    RULE_TITLES,
    WHICH,
    arrow,
    as_number,
    estimators,
    origin,
    scores_by_seed,
    seeds_of,
    titles,
)
from tmt.report.statistics import summarise
from tmt.report.style import COLOURS, FAINT, INK, MARKERS, Chart, canvas, labels_down, legend_below, to_svg, zero_line
from tmt.report.tables import fraction_points
from tmt.report.understanding import Finding, region_title
from tmt.studies import Pair, Result, Study, Variant

FEW = 8
"""Pairs that a legend can name; more are drawn alike."""
NEAR = 2.0
"""Percentage points up to which a scale of differences is linear, if it must reach twice as far."""
FAR_TICKS = (-80, -20, -5, -2, -1, 0, 1, 2, 5, 20, 80)
ROW = 0.24
"""Inches of a row in charts of many."""
Curve = tuple[list[int], list[float], int]
"""Steps, mean scores and number of seeds."""


def colours_of(columns: Sequence[Variant]) -> dict[str, str]:
    """One colour a column, the same in all charts."""
    return {column.name: COLOURS[i % len(COLOURS)] for i, column in enumerate(columns)}


def over_pairs_charts(study: Study) -> list[Chart]:
    """TMT against every method: mean difference over pairs with its interval."""
    found = {which: comparisons(study, "miou", which) for which in EVALUATIONS}
    known = {which: [one for one in all_of_it if one.over_pairs.count] for which, all_of_it in found.items()}
    return [_over_pairs_chart(study, which, own) for which, own in known.items() if own]


def _over_pairs_chart(study: Study, which: str, found: list[Comparison]) -> Chart:
    rows = [f"{_name(study, one.first)} − {_name(study, one.second)}" for one in found]
    tests = [one.over_pairs for one in found]
    with canvas(1.1 + 0.34 * len(rows)) as (figure, axes):
        for y, (one, test) in enumerate(zip(found, tests, strict=True)):
            dots = [pair.difference for pair in one.by_pair.values() if pair.count]
            axes.plot(dots, [y + 0.18] * len(dots), "|", color=FAINT, markersize=7)
            _whisker(axes, (test.difference, test.low, test.high), y, COLOURS[0])
        labels_down(axes, rows)
        zero_line(axes)
        _bend(axes)
    said = "; ".join(
        f"{row} {signed(test.difference)} ({interval(test.low, test.high)}, n = {test.count})"
        for row, test in zip(rows, tests, strict=True)
    )
    caption = (
        f"mIoU of TMT minus each method, {WHICH[which]}, in percentage points: mean over pairs with Student's 95 % "
        f"interval where there are pairs enough; ticks are the pairs. {said}. {origin(study)}"
    )
    return Chart(f"tests-over-pairs-{which}", caption, f"Differences over pairs: {said}", to_svg(figure))


def _bend(axes: Axes) -> None:
    """The scale of differences: one far from the others leaves those room, being drawn on a logarithmic scale."""
    axes.set_xlabel("difference of mIoU, points")
    if max(map(abs, axes.get_xlim())) <= 2 * NEAR:
        return
    axes.set_xscale("symlog", linthresh=NEAR, linscale=1.5)
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in FAR_TICKS if low <= tick <= high], minor=False)
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(f"difference of mIoU, points\n(logarithmic beyond {NEAR:g})")


def by_pair_charts(study: Study) -> list[Chart]:
    """TMT against full fine-tuning, pair by pair."""
    charts = []
    for one in comparisons(study):
        known = {pair: test for pair, test in one.by_pair.items() if test.count}
        if one.second.stage != "full" or not known:
            continue
        with canvas(1.1 + ROW * len(known)) as (figure, axes):
            for y, test in enumerate(known.values()):
                _whisker(axes, (test.difference, test.low, test.high), y, COLOURS[0])
            labels_down(axes, [f"{arrow(pair)} ({test.count})" for pair, test in known.items()])
            zero_line(axes)
            axes.set_xlabel("difference of mIoU, points")
        caption = (
            f"mIoU of {_name(study, one.first)} minus {one.second.title}, {WHICH['last']}, mask rule of TMT: "
            f"{one.first.mask_rule}; mean over (n) seeds that both have, with Student's 95 % interval from three seeds "
            f"on. {len(known)} of {len(study.pairs)} pairs. {origin(study)}"
        )
        charts.append(
            Chart(f"difference-{one.first.name}-{one.second.name}", caption, _pairs_said(one), to_svg(figure))
        )
    return charts


def _name(study: Study, column: Variant) -> str:
    return titles(study.variants)[column.name]


def _pairs_said(one: Comparison) -> str:
    parts = [f"{arrow(pair)} {signed(test.difference)}" for pair, test in one.by_pair.items() if test.count]
    return "Difference of mIoU by pair: " + "; ".join(parts)


def _whisker(axes: Axes, values: tuple[float, float, float], y: float, colour: str, marker: str = "o") -> None:
    """A mark at the first value, with a bar from the second to the third where there are such."""
    middle, low, high = values
    if not math.isnan(low):
        axes.plot([low, high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot([middle], [y], marker, color=colour)


def training_charts(study: Study) -> list[Chart]:
    """mIoU during training on each pair."""
    columns = study.with_role(*COMPARED)
    curves = {pair: {column.name: _mean_curve(study, column.name, pair) for column in columns} for pair in study.pairs}
    known = {pair: {name: line for name, line in lines.items() if line[0]} for pair, lines in curves.items()}
    return [_training_chart(study, columns, pair, lines) for pair, lines in known.items() if lines]


def _training_chart(study: Study, columns: list[Variant], pair: Pair, lines: dict[str, Curve]) -> Chart:
    names, colours = titles(columns), colours_of(columns)
    with canvas(2.9) as (figure, axes):
        for name, (steps, values, count) in lines.items():
            axes.plot(steps, values, "-o", color=colours[name], label=f"{names[name]} ({count})")
        axes.set_title(arrow(pair))
        axes.set_xlabel("target training step")
        axes.set_ylabel("mIoU, percent")
        legend_below(axes)
    caption = (
        f"{arrow(pair)}: mIoU in percent on the target's validation images during training, mean over (n) seeds, "
        f"at the steps that all of them were evaluated at. {origin(study)}"
    )
    ends = "; ".join(f"{names[name]} {line[1][-1]:.1f} at step {line[0][-1]}" for name, line in lines.items())
    return Chart(f"training-{'-'.join(pair)}", caption, f"Training curves, {arrow(pair)}: {ends}", to_svg(figure))


def _mean_curve(study: Study, column: str, pair: Pair) -> Curve:
    curves = [dict(study.targets[column, pair, seed].curve) for seed in seeds_of(study, column, pair)]
    curves = [curve for curve in curves if curve]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    return steps, [float(np.mean([curve[step] for curve in curves])) for step in steps], len(curves)


def class_charts(study: Study) -> list[Chart]:
    """What TMT gains by class over full fine-tuning."""
    found = [one for one in comparisons(study) if one.second.stage == "full"]
    gains = [(one, class_gains(study, one.first, one.second)) for one in found]
    known = [(one, {name: list(by.values()) for name, by in gain.items() if by}) for one, gain in gains]
    return [_class_chart(study, one, gain) for one, gain in known if gain]


def _class_chart(study: Study, one: Comparison, gains: dict[str, list[float]]) -> Chart:
    means = {name: float(np.mean(values)) for name, values in gains.items()}
    with canvas(0.9 + ROW * len(gains)) as (figure, axes):
        for y, (name, values) in enumerate(gains.items()):
            axes.barh(y, means[name], height=0.62, color=COLOURS[0 if means[name] >= 0 else 1], alpha=0.55)
            axes.plot(values, [y] * len(values), ".", color=INK, markersize=3)
        labels_down(axes, [f"{name} ({len(values)})" for name, values in gains.items()])
        zero_line(axes)
        axes.set_xlabel("difference of IoU, points")
    caption = (
        f"IoU by class of {_name(study, one.first)} minus {one.second.title}, {WHICH['last']}, in percentage "
        f"points: bars are means over the (n) pairs whose ground truth has the class, dots the pairs, each a mean "
        f"over the seeds that both have. {origin(study)}"
    )
    alt = "Gain by class: " + "; ".join(f"{name} {signed(mean, 1)}" for name, mean in means.items())
    return Chart(f"classes-{one.first.name}-{one.second.name}", caption, alt, to_svg(figure))


def fraction_charts(study: Study) -> list[Chart]:
    """Figure 7: mIoU against p_T, a line a pair and their mean."""
    found = [_fraction_chart(study, rule, columns) for rule, columns in fraction_points(study).items()]
    return [chart for chart in found if chart]


def _fraction_chart(study: Study, rule: str, columns: list[Variant]) -> Chart | None:
    x = [100 * column.transfer_fraction for column in columns]
    lines = {pair: _means(study, columns, pair) for pair in study.pairs}
    lines = {pair: line for pair, line in lines.items() if sum(not math.isnan(v) for v in line) > 1}
    if not lines:
        return None
    with canvas(3.1) as (figure, axes):
        _fraction_lines(axes, x, lines)
    seeds = sorted({len(seeds_of(study, column.name, pair)) for column in columns for pair in lines})
    caption = (
        f"mIoU in percent against p_T, {RULE_TITLES[rule]}, {WHICH['last']}; means over seeds "
        f"(n from {seeds[0]} to {seeds[-1]}). {origin(study)}"
    )
    said = "; ".join(f"{arrow(pair)} {', '.join(number(v, 1) for v in line)}" for pair, line in lines.items())
    alt = f"mIoU at p_T {', '.join(f'{v:g}' for v in x)} percent: {said}"
    return Chart(f"figure7-{rule}", caption, alt, to_svg(figure))


def _fraction_lines(axes: Axes, x: list[float], lines: dict[Pair, list[float]]) -> None:
    few = len(lines) <= FEW
    for i, (pair, line) in enumerate(lines.items()):
        colour, label = (COLOURS[i], arrow(pair)) if few else (FAINT, "" if i else "one pair")
        axes.plot(x, line, "-o", color=colour, label=label, linewidth=1, alpha=0.8 if few else 0.5)
    whole = [line for line in lines.values() if not any(map(math.isnan, line))]
    if len(whole) > 1:
        axes.plot(x, np.mean(whole, axis=0), "-", color=INK, linewidth=2.4, label=f"mean of {len(whole)} pairs")
    axes.set_xticks(x)
    axes.set_xlabel("p_T, percent of positions left out")
    axes.set_ylabel("mIoU, percent")
    legend_below(axes, 2)


def _means(study: Study, columns: Sequence[Variant], pair: Pair) -> list[float]:
    return [summarise(list(scores_by_seed(study, column.name, pair, "miou").values())).mean for column in columns]


def estimator_chart(study: Study) -> Chart | None:
    """Accuracy, and on a second scale the proxy A-distance, of every discriminator."""
    known = [result for result in estimators(study) if not math.isnan(_accuracy(result))]
    if not known:
        return None
    pairs = [pair for pair in study.pairs if any(r.pair == pair for r in known)]
    kinds = list(dict.fromkeys(str(result.regions) for result in known))
    with canvas(1.7 + ROW * len(pairs)) as (figure, axes):
        for i, kind in enumerate(kinds):
            own = [r for r in known if str(r.regions) == kind and r.pair in pairs]
            rows = [pairs.index(r.pair) + 0.12 * (i - (len(kinds) - 1) / 2) for r in own]
            values = list(map(_accuracy, own))
            axes.plot(values, rows, MARKERS[i % len(MARKERS)], color=COLOURS[i % len(COLOURS)], label=kind, alpha=0.8)
        labels_down(axes, [arrow(pair) for pair in pairs])
        low = min(50.0, *map(_accuracy, known))
        axes.set_xlim(low - 2, 101)
        axes.set_xlabel("held-out accuracy, percent (50: chance)")
        top = axes.secondary_xaxis("top", functions=(_distance, _percent))
        top.set_xlabel("proxy A-distance")
        legend_below(axes)
    caption = (
        "Accuracy of the domain discriminator on held-out validation images, in percent, and the proxy A-distance that "
        f"follows from it, 2(1 − 2ε); a mark a seed, by kind of regions. Near 100, T says little. {origin(study)}"
    )
    said = "; ".join(f"{arrow(r.pair)} {r.regions} seed {r.seed} {_accuracy(r):.1f}" for r in known)
    return Chart("estimators", caption, f"Discriminator accuracy: {said}", to_svg(figure))


def _accuracy(result: Result) -> float:
    """Held-out accuracy of a discriminator in percent; nan where it is not known."""
    return 100 * as_number((result.estimator or {}).get("accuracy"))


def _distance(accuracy: Any) -> Any:
    """Proxy A-distance of an accuracy in percent."""
    return 4 * accuracy / 100 - 2


def _percent(distance: Any) -> Any:
    """Accuracy in percent of a proxy A-distance."""
    return 25 * (distance + 2)


def distance_chart(study: Study) -> Chart | None:
    """What the source model loses from home to the target, against how far apart the domains are."""
    found = distance.gaps(study)
    if not found:
        return None
    with canvas(2.9) as (figure, axes):
        for i, (kind, known) in enumerate(found.items()):
            x, y = [gap.distance for gap in known], [gap.lost for gap in known]
            label = f"{kind}: {distance.said(known)}"
            axes.plot(x, y, MARKERS[i % len(MARKERS)], color=COLOURS[i % len(COLOURS)], label=label, alpha=0.8)
        axes.set_xlabel("proxy A-distance (0 alike, 2 told apart)")
        axes.set_ylabel("mIoU lost, points")
        legend_below(axes, 1)
    caption = (
        "Percentage points of mIoU that the source model loses from its own domain to the target, against the proxy "
        f"A-distance of the two; a mark a pair, means over seeds; Spearman's ρ with a bootstrap over pairs. "
        f"{origin(study)}"
    )
    alt = "; ".join(
        f"{arrow(gap.pair)} {kind} distance {gap.distance:.2f}, lost {gap.lost:.1f}"
        for kind, known in found.items()
        for gap in known
    )
    return Chart("distance", caption, f"Loss against distance: {alt}", to_svg(figure))


def understanding_charts(findings: Sequence[Finding], origin: str) -> list[Chart]:
    """Correlation of 1 - T with the source model's error: over all regions, and within images; at stride 8."""
    findings = [finding for finding in findings if finding.stride == 8]
    if not findings:
        return []
    values: dict[str, Callable] = {
        "over all regions": lambda c: (c.rho, c.low, c.high),
        "within images": lambda c: (c.within, c.within_low, c.within_high),
    }
    return [_correlations(findings, origin, what, value) for what, value in values.items()] + [_bins(findings, origin)]


def _correlations(findings: Sequence[Finding], origin: str, what: str, value: Callable) -> Chart:
    rows = list(dict.fromkeys(f.pair for f in findings))
    kinds = list(dict.fromkeys(map(region_title, findings)))
    slots: dict[tuple, int] = {}
    with canvas(1.4 + 2 * ROW * len(rows) + legend_room(kinds)) as (figure, axes):
        for finding in findings:
            pair, title = finding.pair, region_title(finding)
            slot = slots[pair] = slots.get(pair, -1) + 1
            each = sum(f.pair == pair for f in findings)
            y = rows.index(pair) + 0.7 * ((slot + 0.5) / each - 0.5)
            i = kinds.index(title)
            _whisker(axes, value(finding.correlation), y, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
        for i, title in enumerate(kinds):
            axes.plot([], [], f"-{MARKERS[i % len(MARKERS)]}", color=COLOURS[i % len(COLOURS)], label=title)
        labels_down(axes, [arrow(pair) for pair in rows])
        zero_line(axes)
        axes.set_xlabel("Spearman's ρ of 1 − T and error")
        legend_below(axes, 1)
    caption = (
        f"Spearman's ρ, {what}, of 1 − T and the source model's share of wrong pixels on the target; a mark a seed, "
        f"95 % interval by bootstrap over images. Above 0, T points at what fails. {origin}"
    )
    said = "; ".join(
        f"{arrow(f.pair)} {region_title(f)} seed {f.seed} {signed(value(f.correlation)[0])}" for f in findings
    )
    name = f"understanding-{what.replace(' ', '-')}"
    return Chart(name, caption, f"Correlation {what}: {said}", to_svg(figure))


def legend_room(titles: Sequence[str]) -> float:
    """Inches that a legend of one column takes beyond the two or three rows that every chart has room for."""
    return 0.2 * max(0, len(titles) - 3)


def _bins(findings: Sequence[Finding], origin: str) -> Chart:
    """Error by tenths of 1 - T, mean over pairs and seeds."""
    kinds = list(dict.fromkeys(map(region_title, findings)))
    with canvas(2.9 + legend_room(kinds)) as (figure, axes):
        for i, title in enumerate(kinds):
            lines = [[100 * part[1] for part in f.correlation.bins] for f in findings if region_title(f) == title]
            lines = [line for line in lines if len(line) == len(lines[0])]
            x = range(1, len(lines[0]) + 1)
            for line in lines:
                axes.plot(x, line, "-", color=COLOURS[i % len(COLOURS)], linewidth=0.6, alpha=0.35)
            mean = np.mean(lines, axis=0)
            marker, colour = MARKERS[i % len(MARKERS)], COLOURS[i % len(COLOURS)]
            axes.plot(x, mean, f"-{marker}", color=colour, label=f"{title} ({len(lines)})")
        axes.set_xlabel("regions in tenths, from most to least like the source")
        axes.set_ylabel("wrong pixels, percent")
        axes.set_ylim(bottom=0)
        legend_below(axes, 1)
    caption = (
        "The source model's share of wrong pixels, in percent, in regions ordered by 1 − T: thin lines are (n) pairs "
        f"and seeds, the thick one their mean. A line that rises says that T points at what fails. {origin}"
    )
    return Chart(
        "understanding-tenths", caption, "Error by tenths of 1 − T, from like to unlike the source", to_svg(figure)
    )
