"""Inputs and expectations shared by the superpixel tests."""

import torch
from helpers import gradients, relative_error

import tmt_ext

KAPPA = 1 / 0.07
# (B, C, H, W), cell: divisible and not, one channel block and several, tiles of one vector, of many, and cut ones.
CASES = [
    ((2, 16, 16, 16), 4),
    ((1, 128, 24, 32), 8),
    ((1, 70, 17, 23), 8),
    ((3, 5, 13, 17), 5),
    ((1, 20, 40, 33), 16),
    ((2, 33, 9, 10), 1),
    ((2, 12, 11, 6), 2),
    ((1, 3, 130, 70), 100),
    ((1, 7, 3, 40), 6),
    ((1, 9, 5, 4), 1000),
]


def features(shape, dtype=torch.float64, *, seed=0, scale=1.0):
    """Smooth regions plus noise, as a feature map has: (B, C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(*shape[:2], 5, 5, generator=generator, dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(coarse, shape[2:], mode="bilinear")
    return (scale * (smooth + 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64))).to(dtype)


def oracle(x, cell, **options):
    return tmt_ext.reference.superpixel(x.detach().double(), cell, **options)


def oracle_gradients(x, cell, **options):
    return gradients(lambda y: tmt_ext.reference.superpixel(y, cell, **options), [x.double()])


def assert_labels(labels, expected, band=1e-3):
    """Labels equal those of the `expected` result but where its two largest assignments are within `band`."""
    largest = expected.assignment.topk(2, dim=1).values
    clear = largest[:, 0] - largest[:, 1] > band
    assert labels.dtype == torch.int64
    assert torch.equal(labels[clear], expected.labels[clear])


def own_cells(height, width, cell):
    """Label of each pixel's own cell, (H, W)."""
    return torch.arange(height)[:, None] // cell * -(-width // cell) + torch.arange(width) // cell


def tied_features():
    """Images (1, C, H, W) in which rounding alone tells regions apart, by name; sides are no multiples of a cell."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    images = {f"constant, {c} channels": normal(1, c, 1, 1).expand(1, c, 17, 22) for c in (1, 3, 64, 256)}
    images["zero"] = torch.zeros(1, 4, 9, 10, dtype=torch.float64)
    images["one-channel gradient"] = torch.arange(1.0, 17 * 22 + 1, dtype=torch.float64).view(1, 1, 17, 22)
    images["one colour, many brightnesses"] = normal(1, 8, 1, 1) * (normal(1, 1, 17, 22).abs() + 0.1)
    images["large offset"] = normal(1, 16, 17, 22) + 1e4
    return images


def piecewise_constant(seed=0):
    """Three colours, whose borders cut through cells: (1, 8, 17, 22)."""
    colours = torch.randn(3, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    map_of_colours = torch.zeros(17, 22, dtype=torch.int64)
    map_of_colours[:, 13:], map_of_colours[11:, :6] = 1, 2
    return colours[map_of_colours].permute(2, 0, 1)[None]


def median_errors(shape, cell, **options):
    """Median float32 error over nine inputs, of the operator and of plain PyTorch: two (3,) tensors, for
    region_features, assignment and gradient. Where the problem is ill-conditioned (tiny cells, few channels, many
    iterations, large kappa), one input's error is luck; the median is not.
    """
    errors = []
    for seed in range(9):
        x = features(shape, torch.float32, seed=seed)
        expected, expected_grads = oracle_gradients(x, cell, **options)
        for operator in (tmt_ext.superpixel, tmt_ext.reference.superpixel):
            outputs, grads = gradients(lambda y, run=operator: run(y, cell, **options), [x])
            pairs = zip((*outputs, *grads), (*expected, *expected_grads), strict=True)
            errors.append([relative_error(got, exact) for got, exact in pairs])
    return torch.tensor(errors).view(9, 2, 3).median(0).values
