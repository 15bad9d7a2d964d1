"""Timings of the operators against peers in plain PyTorch: `python -m bench`."""

from tmt.runtime.waiting import wait_briefly

wait_briefly()  # here, as every command of this package loads torch with its first lines
