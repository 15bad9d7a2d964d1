"""The tensor-core superpixels in CUDA: every way in which they cut images into groups and tiles.

Emulated on the CPU, in several orders of threads and blocks, and on a GPU where there is one.
"""

import emulated
import kernel_checks as checks
import pytest
import torch
from superpixel_cases import KAPPA, features

HALF = [torch.bfloat16, torch.float16]
# (B, C, H, W), cell, multiprocessors: images that stay on the chip, in groups of one cell where there are enough.
CASES = [
    pytest.param((1, 40, 16, 24), 8, 6, id="a cell a group"),
    pytest.param((1, 40, 16, 24), 8, 3, id="groups of two cells"),
    pytest.param((1, 20, 40, 48), 8, 30, id="six by five groups"),
    pytest.param((3, 400, 16, 16), 8, 2, id="an image at a time, three turns"),
    pytest.param((5, 33, 16, 16), 8, 8, id="five images at a time"),
    pytest.param((1, 130, 16, 24), 8, 6, id="more channels than registers keep"),
    pytest.param((1, 8, 16, 64), 8, 2, id="more pixels than registers keep"),
    pytest.param((1, 40, 24, 20), 4, 30, id="tiles of 16"),
    pytest.param((1, 300, 8, 12), 4, 6, id="tiles of 16, more channels than registers keep"),
    pytest.param((2, 7, 13, 20), 8, 12, id="cells cut on both sides"),
    pytest.param((1, 8, 11, 16), 4, 1, id="cells cut below, one block"),
    pytest.param((1, 12, 40, 36), 16, 6, id="several tiles to a cell"),
    pytest.param((1, 5, 4, 4), 8, 2, id="one region"),
]
# (B, C, H, W), cell, on an sm_86 of one multiprocessor: too large for the chip, a launch a step.
STEPS = [
    pytest.param((1, 64, 24, 40), 8, id="tiles of 64"),
    pytest.param((2, 64, 22, 40), 4, id="tiles of 16"),
    pytest.param((1, 40, 33, 52), 16, id="several tiles to a cell"),
]
# (B, C, H, W), cell: what the kernels for float32 do.
PLAIN = [
    pytest.param((2, 7, 13, 18), 6, id="cells of no whole pieces"),
    pytest.param((1, 8, 11, 13), 4, id="rows of no whole pieces"),
    pytest.param((2, 5, 4, 3), 1, id="a pixel a cell"),
    pytest.param((1, 130, 40, 40), 36, id="a cell that does not fit"),
]
ORDERS = range(2, 6)


@pytest.fixture
def ops():
    emulated.load()
    yield torch.ops.tmt_emulated
    emulated.set_order(0)
    emulated.set_multiprocessors()
    emulated.set_architecture(90)


def everything(ops, x, cell, iterations=3):
    """Results and gradient."""
    results = ops.superpixel(x, cell, iterations, KAPPA)
    ones = [torch.ones_like(result) for result in results[:2]]
    return *results, ops.superpixel_backward(*ones, x, *results[3:], cell, iterations, KAPPA)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("shape", "cell", "multiprocessors"), CASES)
def test_results_and_gradients(ops, shape, cell, multiprocessors, dtype):
    emulated.set_multiprocessors(multiprocessors)
    checks.check_superpixel(ops, torch.device("cpu"), shape, cell, dtype)


@pytest.mark.parametrize(("shape", "cell", "multiprocessors"), CASES)
def test_no_order_changes_a_bit(ops, shape, cell, multiprocessors):
    """Blocks that are far ahead of others must neither read what these have not written yet, nor write over it."""
    emulated.set_multiprocessors(multiprocessors)
    x = features(shape, torch.bfloat16)
    expected = everything(ops, x, cell)
    for order in ORDERS:
        emulated.set_order(order)
        for got, first in zip(everything(ops, x, cell), expected, strict=True):
            assert torch.equal(got, first)


def names(ops, shape, cell, architecture, multiprocessors):
    x = features(shape, torch.bfloat16)
    found = emulated.launches(lambda: everything(ops, x, cell), architecture, multiprocessors)
    return [launch.kernel.partition("superpixel_")[2].partition("<")[0] for launch in found]


def test_ways(ops):
    """The images above go the way that they are said to go."""
    for case in CASES:
        shape, cell, multiprocessors = case.values
        assert names(ops, shape, cell, 90, multiprocessors) == ["steps", "backward_steps"]
    for case in STEPS:
        assert names(ops, *case.values, 86, 1) == ["steps"] * 5 + ["backward_steps"] * 4
    for case in PLAIN:
        assert set(names(ops, *case.values, 86, 30)) == {""}


@pytest.mark.parametrize("order", [0, 2, 3])
@pytest.mark.parametrize(("shape", "cell"), STEPS)
def test_a_launch_a_step(ops, shape, cell, order):
    emulated.set_architecture(86)
    emulated.set_multiprocessors(1)
    emulated.set_order(order)
    checks.check_superpixel(ops, torch.device("cpu"), shape, cell, torch.bfloat16)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("shape", "cell"), PLAIN)
def test_plain(ops, shape, cell, dtype):
    emulated.set_architecture(86)
    checks.check_superpixel(ops, torch.device("cpu"), shape, cell, dtype)


def test_pixels_that_are_not_aligned(ops):
    """Features that begin in the middle of a piece go to the plain kernels."""
    x = features((1, 8, 16, 16), torch.bfloat16)
    shifted = torch.empty(x.numel() + 1, dtype=x.dtype)[1:].view_as(x).copy_(x)
    assert shifted.data_ptr() % 8 != 0
    checks.check_superpixel(ops, torch.device("cpu"), x.shape, 8, torch.bfloat16, x=shifted)


@pytest.mark.parametrize("architecture", [80, 86, 120])
def test_with_less_shared_memory(ops, architecture):
    emulated.set_architecture(architecture)
    emulated.set_multiprocessors(4)
    checks.check_superpixel(ops, torch.device("cpu"), (1, 130, 16, 32), 8, torch.bfloat16)


@pytest.mark.parametrize("iterations", [1, 7])
def test_iterations(ops, iterations):
    emulated.set_multiprocessors(6)
    checks.check_superpixel(ops, torch.device("cpu"), (1, 24, 16, 24), 8, torch.bfloat16, iterations)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("case", [*(case.values[:2] for case in CASES), ((2, 256, 64, 128), 8), ((2, 256, 64, 128), 4)])
def test_on_a_gpu(case, dtype):
    device = torch.device("cuda", 0)
    checks.check_superpixel(torch.ops.tmt, device, *case, dtype)
    x = features(case[0], dtype).to(device)
    first = everything(torch.ops.tmt, x, case[1])
    for got, expected in zip(everything(torch.ops.tmt, x, case[1]), first, strict=True):
        assert torch.equal(got, expected)
