"""tmt_ext.superpixel on the CPU: extreme values, shapes and sharpness, missing neighbours, and bad arguments."""

import itertools
import math

import pytest
import torch
from helpers import FLOOR, assert_close, gradients
from superpixel_cases import CASES, KAPPA, assert_labels, features, median_errors, oracle, oracle_gradients

import tmt_ext

# ---- edge cases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kappa", [0.1, 100.0, 1000.0])
def test_sharpness(kappa):
    # At large kappa rounding of the cosines is amplified, in the reference as well.
    kernel, reference = median_errors((1, 16, 20, 24), 4, kappa=kappa)
    assert torch.all(kernel <= 2 * reference + FLOOR[torch.float32])


def test_region_without_mass_is_zero():
    # The middle cell's mean is far from each of its pixels, all of which prefer a neighbour at this sharpness.
    x = torch.zeros(1, 2, 1, 6)
    x[0, 0, 0, :3], x[0, 1, 0, 3:] = 1, 1
    result = tmt_ext.superpixel(x, 2, iterations=2, kappa=1000.0)
    exact = oracle(x, 2, iterations=2, kappa=1000.0)
    assert result.region_features[0, :, 0, 1].tolist() == [0, 0]
    assert_close(result.region_features, exact.region_features)
    assert torch.equal(result.labels, exact.labels)


@pytest.mark.parametrize("scale", [1e30, 1e15, 1e-5, 1e-8, 1e-30])
def test_huge_and_tiny_values(scale):
    x = features((1, 8, 12, 20), torch.float32, scale=scale)
    result, expected = tmt_ext.superpixel(x, 4), oracle(x, 4)
    assert_close(result.region_features, expected.region_features)
    assert_close(result.assignment, expected.assignment)


@pytest.mark.parametrize("scale", [1e12, 1e-5, 1e-8])
def test_gradients_of_huge_and_tiny_values(scale):
    # Tiny ones are below the norm's eps, where it no longer depends on the features.
    x = features((1, 8, 12, 20), torch.float32, scale=scale)
    _, (expected,) = oracle_gradients(x, 4)
    _, (grad,) = gradients(lambda y: tmt_ext.superpixel(y, 4), [x])
    assert_close(grad, expected)


def test_zero_vectors():
    x = features((1, 8, 12, 20), torch.float32)
    x[:, :, 3:9, 5:12] = 0
    expected, (expected_grad,) = oracle_gradients(x, 4)
    outputs, (grad,) = gradients(lambda y: tmt_ext.superpixel(y, 4), [x])
    assert_close(outputs[0], expected[0])
    assert_close(outputs[1], expected[1])
    assert_close(grad, expected_grad)


@pytest.mark.parametrize(("shape", "cell"), CASES)
def test_missing_neighbours_get_no_mass(shape, cell):
    assignment = tmt_ext.superpixel(features(shape, torch.float32), cell).assignment
    rows, columns = -(-shape[2] // cell), -(-shape[3] // cell)
    y, x = torch.arange(shape[2])[:, None] // cell, torch.arange(shape[3]) // cell
    for n, (dy, dx) in enumerate(itertools.product((-1, 0, 1), repeat=2)):
        exists = (y + dy >= 0) & (y + dy < rows) & (x + dx >= 0) & (x + dx < columns)
        assert torch.all(assignment[:, n][:, ~exists] == 0)
    torch.testing.assert_close(assignment.sum(1), torch.ones(shape[0], *shape[2:]), rtol=0, atol=1e-6)


def test_mass_is_conserved():
    # Every pixel gives mass 1 away, so region features weighted by mass add up to the sum of the pixels.
    x = features((1, 5, 10, 14))
    result = tmt_ext.superpixel(x, 4)
    ones = torch.cat([x, torch.ones(1, 1, 10, 14, dtype=x.dtype)], 1)
    index, exists = tmt_ext._reference_superpixel.neighbour_regions(10, 14, 4, x.device)
    masses = torch.zeros(12, dtype=x.dtype)
    masses.index_add_(0, index[exists], result.assignment[0].flatten(1)[exists])
    assert_close((result.region_features[0].flatten(1) * masses).sum(1), x.sum((0, 2, 3)), 1e-12)
    assert abs(masses.sum().item() - ones[:, -1].sum().item()) < 1e-10


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (2, 1, 1, 5), (1, 1, 6, 1)])
@pytest.mark.parametrize("cell", [1, 3, 8])
def test_single_pixels_and_channels(shape, cell):
    x = features(shape, torch.float32)
    result, expected = tmt_ext.superpixel(x, cell), oracle(x, cell)
    assert_close(result.region_features, expected.region_features)
    assert_close(result.assignment, expected.assignment)
    assert_labels(result.labels, expected)


def test_empty_batch():
    x = torch.zeros(0, 4, 6, 7, requires_grad=True)
    result = tmt_ext.superpixel(x, 4)
    assert [tuple(t.shape) for t in result] == [(0, 4, 2, 2), (0, 9, 6, 7), (0, 6, 7)]
    result.region_features.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_not_finite_values_propagate(bad, dtype):
    x = features((1, 4, 80, 8), dtype)
    x[0, 1, 2, 3] = bad
    x.requires_grad_()
    result = tmt_ext.superpixel(x, 4, iterations=2)
    assert result.assignment[0, :, 2, 3].isnan().any()
    assert result.region_features[0, :, 0, 0].isnan().any()
    assert result.region_features[0, :, 10:].isfinite().all()  # farther than two iterations reach
    assert result.labels.min() >= 0 and result.labels.max() < 40
    result.region_features.sum().backward()


# ---- bad arguments --------------------------------------------------------------------------------------------------

GOOD = torch.zeros(1, 2, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.zeros(2, 4, 4), 2), {}, r"superpixel: features must be \(B, C, H, W\), got \(2, 4, 4\)"),
        ((GOOD.long(), 2), {}, "superpixel: features must be float32, .*, got int64"),
        ((torch.zeros(1, 0, 4, 4), 2), {}, "superpixel: features must have at least one channel, row and column"),
        ((torch.zeros(1, 2, 0, 4), 2), {}, "superpixel: features must have at least one channel, row and column"),
        ((GOOD, 0), {}, "superpixel: cell must be .*, got 0"),
        ((GOOD, -3), {}, "superpixel: cell must be .*, got -3"),
        ((GOOD, 2), {"iterations": 0}, "superpixel: iterations must be .*, got 0"),
        ((GOOD, 2), {"kappa": 0.0}, "superpixel: kappa must be .*, got 0"),
        ((GOOD, 2), {"kappa": -1.0}, "superpixel: kappa must be .*, got -1"),
        ((GOOD, 2), {"kappa": math.inf}, "superpixel: kappa must be .*, got inf"),
        ((GOOD, 2), {"kappa": math.nan}, "superpixel: kappa must be .*, got -?nan"),
    ],
)
def test_bad_arguments(arguments, options, message):
    with pytest.raises(RuntimeError, match=message):
        tmt_ext.superpixel(*arguments, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(1, 2, 3, 3)}, "grad_region_features must have the shape of its output"),
        ({1: torch.zeros(1, 8, 4, 4)}, "grad_assignment must have the shape of its output"),
        ({1: torch.zeros(1, 9, 4, 4).double()}, "grad_assignment must have the dtype of features, float32, got float"),
        ({3: torch.zeros(1, 3, 9, 2)}, "history must be what superpixel returned"),
        ({4: torch.zeros(1, 2, 9)}, "masses must be what superpixel returned"),
        ({4: torch.zeros(1, 2, 4).double()}, "masses must be what superpixel returned"),
        ({6: 3}, "history must be what superpixel returned"),
    ],
)
def test_bad_arguments_of_the_backward(change, message):
    arguments = [torch.zeros(1, 2, 2, 2), torch.zeros(1, 9, 4, 4), GOOD, torch.zeros(1, 3, 4, 2)]
    arguments += [torch.zeros(1, 2, 4), 2, 2, KAPPA]
    torch.ops.tmt.superpixel_backward(*arguments)
    for place, value in change.items():
        arguments[place] = value
    with pytest.raises(RuntimeError, match=message):
        torch.ops.tmt.superpixel_backward(*arguments)
