"""Imported once by the process that test processes are forked from. Nothing here may start a thread."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import torch

torch.set_num_threads(1)

import tmt.training.run  # noqa: E402, F401
import tmt.training.summary  # noqa: E402, F401
