"""Fair timing: contestants take turns in every round, and the median over rounds counts.

pytest-benchmark runs all rounds of one function before the next, so that a machine that slows down in between would
decide the contest. Its statistics are used here, its runner in bench/test_operators.py, where the project is compared
with its own past.
"""

import time
from collections.abc import Callable

import torch
from pytest_benchmark.stats import Stats

LEAST_ROUNDS, MOST_ROUNDS, SECONDS = 5, 25, 4.0

Calls = dict[str, Callable[[], object]]


def interleaved(calls: Calls) -> dict[str, Stats]:
    """Milliseconds of each contestant: one call to warm up, then one a round, in turn, until `SECONDS` are over."""
    stats = {name: Stats() for name in calls}
    for run in calls.values():
        run()
    begin, rounds = time.perf_counter(), 0
    while rounds < LEAST_ROUNDS or (rounds < MOST_ROUNDS and time.perf_counter() - begin < SECONDS):
        for name, run in calls.items():
            stats[name].update(_milliseconds(run))
        rounds += 1
    return stats


def summary(stats: Stats) -> dict[str, float]:
    """What is kept of one contestant's rounds, in milliseconds."""
    return {"median": stats.median, "min": stats.min, "iqr": stats.iqr, "rounds": stats.rounds}


def _milliseconds(run: Callable[[], object]) -> float:
    synchronise()
    start = time.perf_counter()
    run()
    synchronise()
    return 1e3 * (time.perf_counter() - start)


def synchronise() -> None:
    """Waits for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
