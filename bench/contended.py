"""A training step on a machine of which another process keeps a core busy: python -m bench.contended.

OpenMP's threads spin while they wait for each other. Where one of them waits for its turn on the processor, the others
spin through it. How long they spin is read when torch's OpenMP library is loaded: every case is a process of its own.
Prints a table of medians over interleaved rounds and writes it to bench/results/contended.{json,md}.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import torch

from tmt.runtime import waiting

from . import origin, tables

THREADS, STEPS, ROUNDS = 2, 5, 3
GOAL = 2.5  # times the idle step, at most
SPINS: dict[str, dict[str, str]] = {
    f"as our commands set it (GOMP_SPINCOUNT={waiting.SPINS})": {"GOMP_SPINCOUNT": waiting.SPINS},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "libgomp's own (GOMP_SPINCOUNT=300000)": {"GOMP_SPINCOUNT": "300000"},
}
BUSY = "while True: pass"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.contended", description=__doc__)
    parser.add_argument("--step", action="store_true", help="print the milliseconds of some steps, and nothing else")
    if parser.parse_args().step:
        print(*step_times())
        return
    record = {"environment": origin.cpu(), "ms": measure()}
    tables.keep_page(record, lines(record["ms"]), "contended")


def step_times() -> list[float]:
    """Milliseconds of some steps of the model of `--config demo` on 8 crops."""
    from . import models

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    step = models.training_step(models.contestants(models.preset("demo"))[0], models.Batch.draw(8, (96, 192)))
    step()
    found = []
    for _ in range(STEPS):
        begin = time.perf_counter()
        step()
        found.append(1e3 * (time.perf_counter() - begin))
    return found


def measure() -> dict[str, dict[str, float]]:
    """Median milliseconds of a step by waiting policy, idle and contended."""
    found = {name: {"idle": [], "contended": []} for name in SPINS}
    for _ in range(ROUNDS):
        for name, spin in SPINS.items():
            found[name]["idle"] += in_process(spin)
            with busy_core():
                found[name]["contended"] += in_process(spin)
    return {name: {when: statistics.median(ms) for when, ms in both.items()} for name, both in found.items()}


def in_process(spin: dict[str, str]) -> list[float]:
    """`step_times` of a process whose threads wait in this way."""
    kept = {name: value for name, value in os.environ.items() if name not in waiting.CHOICES}
    environment = {**kept, **spin, "OMP_NUM_THREADS": str(THREADS)}
    command = [sys.executable, "-m", "bench.contended", "--step"]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return [float(word) for word in output.split()]


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """A process that computes all the time."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def lines(ms: dict[str, dict[str, float]]) -> list[str]:
    """Markdown."""
    head = [
        f"A training step of the demo's model, {THREADS} threads on {os.cpu_count()} cores; contended: one core busy.",
        "",
        "| threads wait | idle, ms | contended, ms | contended / idle |",
        "| --- | --- | --- | --- |",
    ]
    for name, both in ms.items():
        ratio = both["contended"] / both["idle"]
        head.append(f"| {name} | {both['idle']:.0f} | {both['contended']:.0f} | {ratio:.1f} |")
    ours = next(iter(ms.values()))
    met = ours["contended"] <= GOAL * ours["idle"]
    return [*head, "", f"Goal, as our commands set it: at most {GOAL} times idle: {'met' if met else '**missed**'}."]


if __name__ == "__main__":
    main()
