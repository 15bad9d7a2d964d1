"""Measures the CUDA operators, or runs them for tools that watch: python -m bench.gpu WHAT. See gpu.sh.

own, eager, compiled   time them alone, against eager peers, against compiled ones; each row is kept in --rows at once
once, profile          every main kernel once at the goals' sizes; the same under Nsight Compute
exercise               every kernel at small sizes, for compute-sanitizer
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from . import gpu_contests, gpu_kernels, origin, rows, tables, timing
from .contests import Contest
from .device import GPU, Device
from .gpu_contests import Row, Sizes

ROWS = {"own": gpu_contests.own, "eager": gpu_contests.eager, "compiled": gpu_contests.compiled}
RUNS = {"once": gpu_kernels.once, "profile": gpu_kernels.profile, "exercise": gpu_kernels.exercise}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[*ROWS, *RUNS])
    parser.add_argument("--rows", type=Path, help="file that rows are appended to, see bench.rows")
    parser.add_argument("--seconds", type=float, default=600, help="start no row later than that")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.what in RUNS:
        RUNS[arguments.what]()
        torch.cuda.synchronize()
        return 0
    if arguments.rows is None:
        parser.error(f"{arguments.what} needs --rows FILE")
    rows.keep(arguments.rows, environment=origin.gpu())
    torch.backends.cuda.enable_cudnn_sdp(False)  # known to give NaN gradients with masks
    torch._dynamo.config.cache_size_limit = 64  # a version for each shape, dtype and pass
    end = time.perf_counter() + arguments.seconds
    return run(arguments.what, arguments.rows, end, GPU, Sizes())


def run(what: str, file: Path, end: float, device: Device, sizes: Sizes) -> int:
    """Measures and keeps every row. Returns for how many ours has no figures, eager or as a graph."""
    failures = 0
    for row in measured(ROWS[what](device, sizes), end, device):
        rows.keep(file, row=row)
        print(tables.line(row), flush=True)
        failures += not row["ms"] or "graph" in row.get("errors", {})
    if what == "own":
        said = attempt(lambda: gpu_kernels.repeats(device, sizes), lambda why: f"not known: {why}")
        rows.keep(file, environment={"same bits twice": said})
    return failures


def measured(every: Iterable[Row], end: float, device: Device) -> Iterator[dict[str, object]]:
    """A row of figures for each, or one that says why there are none."""
    for row in every:
        failed = functools.partial(tables.failed, row.group, row.title, row.step)
        in_time = time.perf_counter() < end
        yield attempt(functools.partial(measure, row, device), failed) if in_time else failed("no time left")


def measure(row: Row, device: Device) -> dict[str, object]:
    able, errors = without_failing(row.contest())
    mib = {name: device.extra(call) for name, call in able.calls.items() if name != "graph"}  # its memory is kept
    return tables.record(able, timing.interleaved(able.calls, device.clock), mib, errors)


def without_failing(contest: Contest) -> tuple[Contest, dict[str, str]]:
    """The contest without those that fail here, for want of memory or of a compiler, and why they do; ours must not."""
    calls, errors = dict(contest.calls), {}
    for name, call in list(contest.calls.items())[1:]:
        if why := attempt(functools.partial(ran, call), str):
            del calls[name]
            errors[name] = why
    return replace(contest, calls=calls), errors


def ran(call: Callable[[], object]) -> None:
    """A call whose result is of no interest."""
    call()


def attempt(call: Callable[[], object], failed: Callable[[str], object]) -> object:
    """What `call` returns, or `failed` of the first line of the error: one row that fails must not cost the others."""
    try:
        return call()
    except Exception as error:
        return failed(f"{type(error).__name__}: {error}".splitlines()[0].replace("|", "/"))


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
