"""Randomness as a pure function of where training stands, so that a resumed run needs no saved generator states."""

import random
import zlib

import numpy as np
import torch


def derive(seed: int, *parts: int | str) -> int:
    """A seed in [0, 2**63) for one purpose, from the run's seed and any names and numbers."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in parts]
    state = np.random.SeedSequence([seed, *words]).generate_state(2, np.uint32)
    return (int(state[0]) << 31) ^ int(state[1])


def seed_all(seed: int) -> None:
    """Seed torch (CPU and CUDA), numpy and random."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
