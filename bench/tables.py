"""Figures as Markdown, and where and when they were taken."""

import datetime
import json
import platform
import subprocess
from pathlib import Path

import torch
import transformers
from pytest_benchmark.stats import Stats

import tmt_ext

from .contests import Contest
from .goals import Verdict, judge
from .timing import summary

HEAD = ["| what | step | ms | MiB | peers: ms (times ours), MiB | goals |", "| --- | --- | --- | --- | --- | --- |"]


def record(contest: Contest, stats: dict[str, Stats], mib: dict[str, float]) -> dict[str, object]:
    """A row: milliseconds and extra MiB of each contestant, and the verdicts on the row's goals."""
    figures = {"ms": {name: one.median for name, one in stats.items()}, "MiB": mib}
    verdicts = [judge(goal, figures[goal.unit]) for goal in contest.goals]
    return {
        "group": contest.group,
        "title": contest.title,
        "step": contest.step,
        "ms": {name: summary(one) for name, one in stats.items()},
        "MiB": mib,
        "goals": [vars(verdict) for verdict in verdicts if verdict is not None],
    }


def line(row: dict[str, object]) -> str:
    """A row as one line of Markdown."""
    (own, mine), *others = row["ms"].items()
    peers = "; ".join(
        f"{name} {number(ms['median'])} ({ms['median'] / mine['median']:.1f}x), {number(row['MiB'][name])}"
        for name, ms in others
    )
    aims = "; ".join(spell(Verdict(**goal)) for goal in row["goals"])
    figures = f"{number(mine['median'])} | {number(row['MiB'][own])}"
    return f"| {row['title']} | {row['step']} | {figures} | {peers} | {aims} |"


def number(figure: float) -> str:
    """Three digits, without an exponent."""
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.3g}"


def spell(verdict: Verdict) -> str:
    return f"{verdict.text}: {'met' if verdict.met else '**missed**'}"


def verdict_lines(rows: list[dict[str, object]]) -> list[str]:
    """How many goals are met, and each that is not."""
    every = [(row, goal) for row in rows for goal in row["goals"]]
    missed = [f"- {row['title']}, {row['step']}: {goal['text']}" for row, goal in every if not goal["met"]]
    return [f"{len(every) - len(missed)} of {len(every)} goals met." + (" Missed:" if missed else ""), *missed]


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
    about = [f"- {name}: {value}" for name, value in record["environment"].items()]
    rows = record["rows"]
    return "\n".join([*about, "", *HEAD, *map(line, rows), "", *verdict_lines(rows), ""])


def origin() -> dict[str, str]:
    """When, with which code and which versions."""
    info = tmt_ext.build_info()
    return {
        "date": datetime.date.today().isoformat(),
        "revision": _revision() or info["revision"],
        "extension built from": info["revision"],
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}, {info['compiler']}",
    }


def _revision() -> str:
    """The checkout's commit, with + where files differ from it; nothing outside a checkout."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    return found.stdout.strip()


def save(record: dict[str, object], folder: Path, name: str) -> None:
    """Writes a record as JSON and as Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (folder / f"{name}.md").write_text(document(record))


def gpu() -> dict[str, str]:
    """What the figures of a GPU were taken on."""
    return {"device": torch.cuda.get_device_name(), "CUDA": tmt_ext.build_info()["cuda_version"], **origin()}


def cpu() -> dict[str, str]:
    """What the figures of a CPU were taken on."""
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.exists() else []
    models = {line.split(":")[1].strip() for line in lines if line.startswith("model name")}
    return {
        "processor": ", ".join(sorted(models)) or platform.processor() or platform.machine(),
        "threads": str(torch.get_num_threads()),
        "instructions": tmt_ext.build_info()["simd_active"],
        **origin(),
    }
