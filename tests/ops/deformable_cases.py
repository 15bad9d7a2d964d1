"""Inputs and expectations shared by the tests of deformable attention."""

from typing import NamedTuple

import torch
from torch import Tensor

import tmt_ext

NAMES = ("output", "gradient of value", "gradient of locations", "gradient of weights")
# Sizes for every SIMD level: vectors of channels with and without a remainder, several tiles, several splits.
LEVEL_CASES = [
    dict(dim=32, queries=70),
    dict(dim=37, heads=3, points=5),
    dict(dim=3, queries=600),
    dict(shapes=[(3, 4)], batch=1, heads=1, dim=9, queries=2100, points=2),
]


class Inputs(NamedTuple):
    value: Tensor  # (B, S, heads, D)
    shapes: list[tuple[int, int]]
    locations: Tensor  # (B, Q, heads, levels, points, 2)
    weights: Tensor  # (B, Q, heads, levels, points)

    def double(self):
        return Inputs(self.value.double(), self.shapes, self.locations.double(), self.weights.double())


def wide(dtype):
    """The dtype in which locations and weights are used beside values in `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def places(shapes, batch, queries, heads, points, generator):
    """Locations (B, Q, heads, levels, points, 2) within, across and beyond the maps' borders.

    They keep 1/50 of a pixel away from pixel centres, where the gradient jumps and rounding would decide.
    """
    sizes = torch.tensor(shapes).flip(-1)[:, None]  # x before y
    drawn = torch.rand(2, batch, queries, heads, len(shapes), points, 2, generator=generator, dtype=torch.float64)
    pixels = (drawn[0] * (sizes + 4)).floor() - 3
    return (pixels + 0.02 + 0.96 * drawn[1] + 0.5) / sizes


def inputs(shapes=((5, 7), (3, 2)), batch=2, heads=2, dim=8, queries=9, points=4, dtype=torch.float64, *, seed=0):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    value = normal(batch, sum(h * w for h, w in shapes), heads, dim).to(dtype)
    locations = places(shapes, batch, queries, heads, points, g).to(wide(dtype))
    return Inputs(value, list(shapes), locations, normal(*locations.shape[:-1]).to(wide(dtype)))


def upstream(data, seed=1):
    """A gradient of the output, (B, Q, heads * D) in the dtype of value."""
    (batch, _, heads, dim), queries = data.value.shape, data.locations.shape[1]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, queries, heads * dim, generator=generator, dtype=torch.float64).to(data.value.dtype)


def differentiate(operator, data, grad_output=None):
    """[output, gradients of value, locations and weights]; the inputs keep their strides."""
    leaves = [x.detach().requires_grad_() for x in (data.value, data.locations, data.weights)]
    output = operator(leaves[0], data.shapes, *leaves[1:])
    grad_output = (upstream(data) if grad_output is None else grad_output).to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad_output)]


def oracle(data, grad_output=None):
    """The same of the reference in float64."""
    grad_output = upstream(data) if grad_output is None else grad_output
    return differentiate(tmt_ext.reference.deformable_attention, data.double(), grad_output.double())


def same_bits(results, others):
    """NaN equals NaN."""
    return all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in zip(results, others, strict=True))
