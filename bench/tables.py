"""Figures as Markdown. Needs no torch, so that what was measured becomes a table whatever broke later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from .goals import Verdict, judge

if TYPE_CHECKING:
    from pytest_benchmark.stats import Stats

    from .contests import Contest

RESULTS = Path(__file__).parent / "results"
HEAD = ["| what | step | ms | MiB | peers: ms (times ours), MiB | goals |", "| --- | --- | --- | --- | --- | --- |"]


def record(
    contest: Contest, stats: dict[str, Stats], mib: dict[str, float], errors: dict[str, str] | None = None
) -> dict[str, object]:
    """A row: milliseconds and extra MiB of each contestant, the verdicts on the row's goals, and who failed and why."""
    figures = {"ms": {name: one.median for name, one in stats.items()}, "MiB": mib}
    verdicts = [judge(goal, figures[goal.unit]) for goal in contest.goals]
    return {
        "group": contest.group,
        "title": contest.title,
        "step": contest.step,
        "ms": {name: summary(one) for name, one in stats.items()},
        "MiB": mib,
        "goals": [vars(verdict) for verdict in verdicts if verdict is not None],
        **({"errors": errors} if errors else {}),
    }


def summary(stats: Stats) -> dict[str, float]:
    """What is kept of one contestant's rounds, in milliseconds."""
    return {"median": stats.median, "min": stats.min, "iqr": stats.iqr, "rounds": stats.rounds}


def failed(group: str, title: str, step: str, why: str) -> dict[str, object]:
    """A row without figures."""
    return {"group": group, "title": title, "step": step, "ms": {}, "MiB": {}, "goals": [], "errors": {"tmt": why}}


def line(row: dict[str, object]) -> str:
    """A row as one line of Markdown."""
    if not row["ms"]:
        return f"| {row['title']} | {row['step']} | **failed** | | {'; '.join(_failures(row))} | |"
    (own, mine), *others = row["ms"].items()
    peers = "; ".join([*(_peer(name, ms, mine, row["MiB"]) for name, ms in others), *_failures(row)])
    aims = "; ".join(spell(Verdict(**goal)) for goal in row["goals"])
    figures = f"{number(mine['median'])} | {number(row['MiB'][own])}"
    return f"| {row['title']} | {row['step']} | {figures} | {peers} | {aims} |"


def _peer(name: str, ms: dict[str, float], mine: dict[str, float], mib: dict[str, float]) -> str:
    memory = f", {number(mib[name])}" if name in mib else ""
    return f"{name} {number(ms['median'])} ({ms['median'] / mine['median']:.1f}x){memory}"


def _failures(row: dict[str, object]) -> list[str]:
    return [f"{name} failed: {why}" for name, why in row.get("errors", {}).items()]


def number(figure: float) -> str:
    """Three digits, without an exponent."""
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.3g}"


def spell(verdict: Verdict) -> str:
    return f"{verdict.text}: {'met' if verdict.met else '**missed**'}"


def verdict_lines(rows: list[dict[str, object]]) -> list[str]:
    """How many goals are met, and each that is not."""
    every = [(row, goal) for row in rows for goal in row["goals"]]
    missed = [f"- {row['title']}, {row['step']}: {goal['text']}" for row, goal in every if not goal["met"]]
    failures = [f"- {row['title']}, {row['step']}: {'; '.join(_failures(row))}" for row in rows if row.get("errors")]
    lines = [f"{len(every) - len(missed)} of {len(every)} goals met." + (" Missed:" if missed else ""), *missed]
    return [*lines, *(["", "Failed:", *failures] if failures else [])]


def digest(rows: list[dict[str, object]]) -> list[str]:
    """The goals, each over all rows of a group: lines of Markdown."""
    found: dict[tuple[str, str, str], list[Verdict]] = {}
    for row in rows:
        for goal in row["goals"]:
            verdict = Verdict(**goal)
            found.setdefault((row["group"], row["step"], verdict.goal), []).append(verdict)
    lines = ["| what | step | goal | measured | met |", "| --- | --- | --- | --- | --- |"]
    for (group, step, goal), verdicts in found.items():
        values = sorted(verdict.value for verdict in verdicts)
        span = f"{values[0]:.2f}" if len(values) == 1 else f"{values[0]:.2f} to {values[-1]:.2f}"
        met = sum(verdict.met for verdict in verdicts)
        lines.append(f"| {group} | {step} | {goal} | {span} | {met} of {len(verdicts)} |")
    return lines


def document(record: dict[str, object]) -> str:
    """Everything as one Markdown page."""
    rows = record["rows"]
    return page(record, [*HEAD, *map(line, rows), "", *verdict_lines(rows)])


def page(record: dict[str, object], lines: list[str]) -> str:
    """A page that begins with where its figures were taken."""
    return "\n".join([*(f"- {name}: {value}" for name, value in record["environment"].items()), "", *lines, ""])


def save(record: dict[str, object], folder: Path, name: str, text: str) -> None:
    """Writes a record as JSON, and the page that says it as Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (folder / f"{name}.md").write_text(text)


def keep_page(record: dict[str, object], lines: list[str], name: str) -> None:
    """Prints a page and keeps it, with its figures, in RESULTS."""
    text = page(record, lines)
    print(text)
    save(record, RESULTS, name, text)
