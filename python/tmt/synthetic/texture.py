"""Tileable textures, one plane each of a bank, gathered for a whole picture at once."""

from functools import cache, reduce

import numpy as np

SIDE = 256  # texels per tile edge
TEXELS_PER_METRE = 16.0

SMOOTH, GRAIN, LEAF, CLOUD, BRICK, STRIPE, BLOTCH, GRASS, SHEEN, TILE = range(10)


def _spectrum(rng: np.random.Generator, low: float, high: float, stretch: float = 1.0) -> np.ndarray:
    """Noise with wavelengths around `low` .. `high` texels, longer by `stretch` along y; zero mean, unit deviation."""
    fy = np.fft.fftfreq(SIDE)[:, None] * stretch
    fx = np.fft.rfftfreq(SIDE)[None, :]
    frequency = np.hypot(fx, fy)
    band = np.exp(-((frequency * low) ** 2)) * (1 - np.exp(-((frequency * high) ** 2)))
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((SIDE, SIDE))) * band, s=(SIDE, SIDE))
    return (noise - noise.mean()) / noise.std()


def _clouds(rng: np.random.Generator) -> np.ndarray:
    """Noise of equal weight in every octave, squeezed so that it reads as banks with gaps."""
    sizes = (16, 32, 64, 128, 256)
    octaves = reduce(np.add, [_spectrum(rng, size / 3, size, stretch=2.0) * size for size in sizes])
    return np.tanh(octaves / octaves.std())


def _bricks(rng: np.random.Generator) -> np.ndarray:
    """Courses of 4 texels, bricks of 8, staggered; light joints, each brick its own tone."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    course = rows // 4
    brick = (columns + 4 * (course % 2)) % SIDE // 8
    tone = rng.standard_normal((SIDE // 4, SIDE // 8))[course, brick]
    joint = (rows % 4 == 0) | ((columns + 4 * (course % 2)) % 8 == 0)
    return np.where(joint, 1.2, 0.6 * tone - 0.4)


def _tiles(rng: np.random.Generator) -> np.ndarray:
    """Square slabs of 16 texels with dark joints."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    tone = rng.standard_normal((SIDE // 16, SIDE // 16))[rows // 16, columns // 16]
    joint = (rows % 16 < 2) | (columns % 16 < 2)
    return np.where(joint, -1.5, 0.5 * tone + 0.3)


@cache
def bank() -> np.ndarray:
    """All textures, float32 (10, SIDE, SIDE), each of about zero mean and unit deviation; the same in every process."""
    rng = np.random.default_rng(19)
    leaf = np.tanh(1.5 * _spectrum(rng, 2, 9)) + 0.5 * _spectrum(rng, 10, 60)
    stripe = np.tile(np.where(np.arange(SIDE) % 8 < 3, -1.2, 0.7), (SIDE, 1))
    planes = [
        np.zeros((SIDE, SIDE)),
        0.8 * _spectrum(rng, 0.6, 3) + 0.6 * _spectrum(rng, 20, 90),
        leaf,
        _clouds(rng),
        _bricks(rng),
        stripe + 0.2 * _spectrum(rng, 1, 4),
        _spectrum(rng, 6, 24),
        _spectrum(rng, 0.8, 6, stretch=4.0),
        _spectrum(rng, 6, 40, stretch=0.3),
        _tiles(rng) + 0.3 * _spectrum(rng, 1, 5),
    ]
    return np.stack(planes).astype(np.float32)
