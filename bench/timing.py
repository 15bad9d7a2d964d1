"""Fair timing: contestants take turns in every round, and the median over rounds counts."""

import statistics
import time
from collections.abc import Callable

import torch


def interleaved(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each contestant; each is called once to warm up, then once a round, in turn."""
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():
        run()
    for _ in range(rounds):
        for name, run in contestants.items():
            samples[name].append(_milliseconds(run))
    return {name: statistics.median(values) for name, values in samples.items()}


def _milliseconds(run: Callable[[], object]) -> float:
    _synchronise()
    start = time.perf_counter()
    run()
    _synchronise()
    return 1e3 * (time.perf_counter() - start)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def forward_backward(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> Callable[[], object]:
    """A call of `function` on leaves that need gradients, followed by backward from the sum of its result."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]

    def run() -> object:
        return torch.autograd.grad(function(*leaves).sum(), leaves)

    return run


def passes(contestants: dict[str, Callable[..., torch.Tensor]], inputs) -> dict[str, dict[str, Callable[[], object]]]:
    """Calls of each contestant on `inputs`, by pass: without gradients, and with backward."""
    return {
        "forward": {name: _without_gradients(function, *inputs) for name, function in contestants.items()},
        "forward + backward": {name: forward_backward(function, *inputs) for name, function in contestants.items()},
    }


def _without_gradients(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return function(*inputs)

    return run
