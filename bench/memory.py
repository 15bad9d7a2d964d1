"""Peak memory of a call beyond what was there before and beyond its results, which all contestants must make.

On a GPU torch's allocator counts. On the CPU the kernel does: the process's largest resident size since it was last
reset. Freed memory that malloc keeps would hide in it, so that calls are measured in a process of their own, where
malloc gives every larger block back at once: `python -m bench.memory`, started by `python -m bench`.
"""

import argparse
import ctypes
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

BLOCKS = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MKL_DISABLE_FAST_MM": "1"}


def of_contests(only: str, file: Path) -> dict[str, dict[str, float]]:
    """Extra MiB of every contestant, by row and name, measured in a process of their own."""
    command = [sys.executable, "-m", "bench.memory", "--only", only, "--json", str(file)]
    subprocess.run(command, check=True, env={**os.environ, **BLOCKS})
    return json.loads(file.read_text())


def extra(run: Callable[[], object]) -> float:
    """MiB resident at the peak of `run` beyond what was there before and its results: the median of some calls.

    The call before them, that sets things up, is not counted.
    """
    run()
    peaks, begin = [_peak(run)], time.perf_counter()
    while len(peaks) < 5 and time.perf_counter() - begin < 0.5:
        peaks.append(_peak(run))
    return max(statistics.median(peaks), 0.0)


def _peak(run: Callable[[], object]) -> float:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak restarts at what is resident now
    before = _status("VmHWM")
    results = run()
    return (_status("VmHWM") - before) / 2**10 - _size(results)


def _status(name: str) -> int:
    """KiB of one entry of this process's status."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def _size(results: object) -> float:
    """MiB of a tensor, or of the tensors in a tuple."""
    if isinstance(results, torch.Tensor):
        return results.numel() * results.element_size() / 2**20
    return sum(map(_size, results)) if isinstance(results, tuple) else 0.0


def extra_on_gpu(run: Callable[[], object]) -> float:
    """MiB allocated at the peak of `run` beyond what was there before and its results."""
    run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = run()
    torch.cuda.synchronize()
    return max((torch.cuda.max_memory_allocated() - before) / 2**20 - _size(results), 0.0)


def main() -> None:
    from . import contests  # a row's calls; `extra` alone needs none of it

    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--only", default="", help="measure rows whose title contains this")
    parser.add_argument("--json", type=Path, required=True, help="file to write the figures to")
    arguments = parser.parse_args()
    found = {}
    for contest in contests.on_cpu(arguments.only):
        found[contest.row] = {name: extra(run) for name, run in contest.calls.items()}
        figures = ", ".join(f"{name} {mib:.1f}" for name, mib in found[contest.row].items())
        print(f"MiB of {contest.row}: {figures}", file=sys.stderr, flush=True)
    arguments.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
