"""What the benchmark says of its figures is true: turns, memory, verdicts, and that decoders compute the same."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch

from bench import decoders, memory, publish, tables, timing
from bench.contests import Contest
from bench.goals import Goal, judge

FIGURES = {"tmt": 2.0, "a": 9.0, "b": 7.0, "flex": None}


@pytest.mark.parametrize(
    "goal, text, met",
    [
        (Goal("ms", ("a", "b"), 3.5), "3.50 times as fast as b (goal 3.5)", True),
        (Goal("ms", ("a", "b"), 3.6), "3.50 times as fast as b (goal 3.6)", False),
        (Goal("ms", ("a", "flex", "absent"), 5), "4.50 times as fast as a (goal 5)", False),
        (Goal("MiB", ("b",), 3), "1/3.5 of the memory of b (goal 3)", True),
        (Goal("MiB", ("b",)), "1/3.5 of the memory of b (goal 1)", True),
        (Goal("ms", most=2.0), "2.000 ms (goal at most 2 ms)", True),
        (Goal("ms", most=1.9), "2.000 ms (goal at most 1.9 ms)", False),
    ],
)
def test_a_goal_is_judged_against_the_best_of_those_it_names(goal, text, met):
    verdict = judge(goal, FIGURES)
    assert (verdict.text, verdict.met) == (text, met)


def test_a_goal_against_nobody_present_is_not_judged():
    assert judge(Goal("ms", ("flex", "absent"), 2), FIGURES) is None


def test_contestants_take_turns_and_the_median_counts(monkeypatch):
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    turns, clock = [], iter([1, 10, 100, 20, 2, 30, 3, 40, 4, 50])
    calls = {name: lambda name=name: turns.append(name) for name in ("tmt", "peer")}

    def ticks(run):
        run()
        return next(clock)

    stats = timing.interleaved(calls, ticks)
    assert turns == ["tmt", "peer"] * (1 + timing.LEAST_ROUNDS)  # the first to warm up
    assert (stats["tmt"].median, stats["peer"].median) == (3, 30)


def test_a_row_names_every_figure_and_every_verdict():
    contest = Contest("things", "thing", "forward", {"tmt": object, "peer": object}, (Goal("MiB", ("peer",), 4.0),))
    stats = timing.interleaved(contest.calls, lambda run: 5.0)
    row = tables.record(contest, stats, {"tmt": 2.0, "peer": 6.0})
    expected = "| thing | forward | 5 | 2 | peer 5 (1.0x), 6 | 1/3.0 of the memory of peer (goal 4): **missed** |"
    assert tables.line(row) == expected
    missed = ["0 of 1 goals met. Missed:", "- thing, forward: 1/3.0 of the memory of peer (goal 4)"]
    assert tables.verdict_lines([row]) == missed
    other = {**row, "goals": [{**row["goals"][0], "value": 4.5, "met": True}]}
    assert tables.digest([row, other])[2:] == [
        "| things | forward | 1/4 of the memory of peer | 3.00 to 4.50 | 1 of 2 |"
    ]


MEASURED = """
import torch
from bench.memory import extra
MIB = 2**18  # float32 elements
def some(temporary, result):
    kept = [torch.ones(temporary * MIB)]
    kept.clear()
    kept = torch.ones(3 * MIB), torch.ones(result * MIB)  # freed blocks were given back: they count, if at all, anew
    return kept[1]
torch.ones(50 * MIB)  # was there before and is gone
print(extra(lambda: some(40, 8)), extra(lambda: some(1, 20)), extra(lambda: torch.ones(16 * MIB)))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak cannot be reset here")
def test_memory_counts_what_a_call_holds_at_its_peak_beyond_its_results():
    environment = {**os.environ, **memory.BLOCKS}
    output = subprocess.run(
        [sys.executable, "-c", MEASURED], env=environment, capture_output=True, text=True, check=True
    )
    found = [float(word) for word in output.stdout.split()]
    assert found == pytest.approx([40 - 8, 3, 0], abs=0.7)


def test_decoders_compute_the_same():
    """In float64, where no decision is within rounding."""
    torch.manual_seed(0)
    features = decoders.Features.draw(1, (128, 256))
    maps = tuple(one.double() for one in features.maps)
    features = dataclasses.replace(features, maps=maps, mask_features=features.mask_features.double())
    ours, theirs = (model.double() for model in decoders.contestants())
    with torch.no_grad():
        for found, expected in zip(ours(features), theirs(features), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_training_steps_reach_the_same_weights_and_every_feature():
    features, reached = decoders.Features.draw(1, (128, 256)), []
    for model in decoders.contestants():
        names = [name for name, _ in model.named_parameters()]
        gradients = decoders.training_step(model)(features)
        reached.append({name for name, one in zip(names, gradients, strict=False) if one is not None})
        assert all(one is not None for one in gradients[len(names) :])
    assert reached[0] == reached[1]


def test_pages_quote_the_committed_results():
    record = json.loads(publish.RESULTS.read_text())
    for page, text in publish.texts(record).items():
        assert text in page.read_text() and publish.replaced(page.read_text(), text) == page.read_text()
    speeds = [row["ms"] for row in record["rows"] if row["title"].startswith("model Swin-T")]
    times = [ms["transformers"]["median"] / ms["tmt"]["median"] for ms in speeds]
    assert f"| {times[0]:.1f} | {times[1]:.1f} |" in publish.summary(record)
