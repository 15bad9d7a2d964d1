"""How OpenMP's threads wait for each other; set before torch, whose OpenMP reads it once, when it is loaded.

A thread that spins while it waits takes the core from the one that it waits for: with one core busy elsewhere, a
training step on two threads takes 10 to 50 times as long. After SPINS turns ours sleep.
"""

import os
import sys

SPINS = "2000"
CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
OURS = "TMT_GOMP_SPINCOUNT"
"""Set beside our default, so that a command started by another one knows that it was not the user's."""


def wait_briefly() -> None:
    """Let threads spin briefly in this process and those it starts, unless the user chose or torch is there already."""
    if "torch" not in sys.modules and not any(name in os.environ for name in CHOICES):
        os.environ["GOMP_SPINCOUNT"] = os.environ[OURS] = SPINS


def waiting() -> dict[str, str]:
    """What was chosen and by whom ("user" or "default"), as a run's record keeps it; empty where nothing was."""
    found = {name: os.environ[name] for name in CHOICES if name in os.environ}
    if not found:
        return {}
    ours = found == {"GOMP_SPINCOUNT": os.environ.get(OURS)}
    return {**found, "chosen by": "default" if ours else "user"}
