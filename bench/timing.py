"""Fair timing: contestants take turns in every round, and the median over rounds counts.

pytest-benchmark runs all rounds of one function before the next, so that a machine that slows down in between would
decide the contest. Its statistics are used here, its runner in bench/test_operators.py, where the project is compared
with its own past.
"""

import time
from collections.abc import Callable

import torch
from pytest_benchmark.stats import Stats

LEAST_ROUNDS, MOST_ROUNDS, SECONDS = 5, 25, 2.0
GPU_CALLS = 10

Calls = dict[str, Callable[[], object]]


def interleaved(
    calls: Calls, clock: Callable[[Callable[[], object]], float], least: int = LEAST_ROUNDS
) -> dict[str, Stats]:
    """Milliseconds of each contestant: one call to warm up, then one a round, in turn, until `SECONDS` are over.

    But `least` rounds at least.
    """
    stats = {name: Stats() for name in calls}
    for run in calls.values():
        run()
    begin, rounds = time.perf_counter(), 0
    while rounds < least or (rounds < MOST_ROUNDS and time.perf_counter() - begin < SECONDS):
        for name, run in calls.items():
            stats[name].update(clock(run))
        rounds += 1
    return stats


def on_cpu(run: Callable[[], object]) -> float:
    """Milliseconds of a call."""
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def on_gpu(run: Callable[[], object]) -> float:
    """Milliseconds of a call among others, so that the time Python takes to launch it hides behind the one before."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(GPU_CALLS):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / GPU_CALLS
