"""How long a stage trains, how often it does what else it does, and its learning rate."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Numbers of steps."""

    steps: int
    eval_every: int
    checkpoint_every: int
    log_every: int

    def evaluates_at(self, step: int) -> bool:
        """Whether the weights after `step` steps are evaluated."""
        return step == self.steps or (step > 0 and step % self.eval_every == 0)


def poly(steps: int, power: float, warmup: int = 0) -> Callable[[int], float]:
    """The poly schedule (1 - step / steps) ** power, after a linear warm-up, as a factor on the learning rate."""

    def factor(step: int) -> float:
        start = min(1.0, (step + 1) / (warmup + 1))
        return start * (1 - step / steps) ** power

    return factor


def constant(step: int) -> float:
    """The same learning rate at every step."""
    return 1.0
