"""Running tiny trainings: settings, and processes that are cheap to start."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = str(Path(__file__).parents[2])
TINY_MODEL = {
    "embed_dim": 16, "depths": "[1,1,1,1]", "heads": "[1,1,2,2]", "window": 4, "drop_path": 0.1, "hidden": 32,
    "ffn": 32, "encoder_ffn": 32, "encoder_layers": 1, "decoder_layers": 3, "attention_heads": 2, "queries": 8,
    "points": 64, "estimator_hidden": 16, "cell": 2,
}  # fmt: skip
TINY_FIT = {"batch_size": 2, "lr": 1e-3, "clip": 1.0, "log_every": 1, "warmup": 1}


def arguments(out: Path, source: Path, target: Path, *more: str, steps: int = 4) -> list[str]:
    """A command line of `tmt.train` with a tiny model and tiny data."""
    settings: dict[str, object] = {
        "out": out, "device": "cpu", "pictures": 1, "data.source": "cityscapes", "data.target": "cityscapes",
        "data.source_root": source, "data.target_root": target, "data.workers": 0, "augment.crop": "[48,96]",
        "augment.scale": "[0.75,1.5]", "estimator.steps": steps, "estimator.batch_size": 2, "estimator.log_every": 1,
        "estimator.eval_every": steps, "estimator.checkpoint_every": 2,
    }  # fmt: skip
    settings |= {f"model.{name}": value for name, value in TINY_MODEL.items()}
    for stage in ("source", "target"):
        fit = {**TINY_FIT, "steps": steps, "eval_every": max(1, steps // 2), "checkpoint_every": 2}
        settings |= {f"{stage}.{name}": value for name, value in fit.items()}
    return [f"--{name}={value}" for name, value in settings.items()] + list(more)


def start(action: Callable[..., object], *args: object) -> BaseProcess:
    """Start `action` in a process forked from one that has everything imported already and computes on one thread."""
    if ROOT not in os.environ.get("PYTHONPATH", "").split(os.pathsep):  # the server itself looks nowhere else
        os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path, ROOT])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.preload"])
    process = context.Process(target=_run, args=(action, *args))
    process.start()
    return process


def _run(action: Callable[..., object], *args: object) -> None:
    sys.exit(action(*args))


def train(argv: list[str], log: Path) -> int:
    """`tmt.train` in this process, its output to a file; returns the exit code."""
    from tmt.cli.train import main

    redirect(log)
    return main(argv)


def redirect(log: Path) -> None:
    """Send this process's stdout and stderr to a file."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def free_port() -> int:
    """A port for processes that work together."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def wait_for(condition: Callable[[], bool], process: BaseProcess, seconds: float = 60) -> None:
    """Wait until a condition holds while the process runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.is_alive(), f"process ended with code {process.exitcode} before the condition held"
        assert time.monotonic() < end, "condition did not come to hold"
        time.sleep(0.002)


def finish_all(processes: list[BaseProcess], seconds: float = 120) -> list[int | None]:
    """Exit codes of processes that work together; when one fails, the others, which would wait for it, are killed."""
    end = time.monotonic() + seconds
    while any(process.is_alive() for process in processes) and time.monotonic() < end:
        if any(process.exitcode for process in processes):
            break
        time.sleep(0.02)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return codes


def finish(process: BaseProcess, seconds: float = 120) -> int:
    """Wait for a process and return its exit code; a process that takes longer is killed."""
    process.join(seconds)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        raise AssertionError(f"process did not end within {seconds} s")
    return process.exitcode
