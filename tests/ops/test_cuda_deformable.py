"""Deformable attention's CUDA kernels: emulated on the CPU, and on a GPU where there is one."""

import deformable_checks as checks
import emulated
import kernel_checks
import pytest
import torch
from deformable_cases import inputs, upstream
from helpers import assert_close

GPU = torch.device("cuda", 0)
ORDERS = (0, 1, 5)


def _emulated():
    emulated.load()
    return torch.ops.tmt_emulated, torch.device("cpu")


def _on_gpu():
    return torch.ops.tmt, GPU


@pytest.fixture(params=[_emulated, pytest.param(_on_gpu, marks=pytest.mark.gpu)], ids=["emulated", "gpu"])
def where(request):
    """(ops, device)."""
    return request.param()


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", kernel_checks.DTYPES)
@pytest.mark.parametrize("case", checks.CASES)
def test_equals_oracle(where, case, dtype, deterministic):
    checks.check(*where, case, dtype, deterministic)


def test_strides(where):
    checks.check_strides(*where)


def test_not_finite(where):
    checks.check_not_finite(*where)


def test_empty(where):
    checks.check_empty(*where)


def test_huge_and_tiny_gradients(where):
    checks.check_huge_and_tiny(*where)


def test_same_bits_in_any_order():
    ops, device = _emulated()
    orders = [lambda seed=seed: emulated.set_order(seed) for seed in (*ORDERS, 6)]
    checks.check_same_bits(ops, device, orders)
    emulated.set_order(0)


def test_too_many_levels(where):
    ops, device = where
    value = torch.zeros(1, 9, 1, 4, device=device)
    places, weights = torch.zeros(1, 2, 1, 9, 1, 2, device=device), torch.zeros(1, 2, 1, 9, 1, device=device)
    with pytest.raises(RuntimeError, match="shapes must be of at most 8 levels on CUDA, got 9"):
        ops.deformable_attention(value, [1] * 18, places, weights)


def test_float64_is_refused(where):
    ops, device = where
    data = inputs(dim=4)
    value, places, weights = (x.to(device) for x in (data.value, data.locations, data.weights))
    with pytest.raises(RuntimeError, match="dtype must be float32, bfloat16 or float16 on CUDA, got float64"):
        ops.deformable_attention(value, [size for pair in data.shapes for size in pair], places, weights)


@pytest.mark.gpu
def test_same_bits_again_and_again():
    checks.check_same_bits(*_on_gpu(), [lambda: None] * 5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", kernel_checks.DTYPES)
def test_a_crop_equals_the_cpu(dtype):
    sizes = dict(shapes=((16, 32), (32, 64), (64, 128)), batch=1, heads=8, dim=32, queries=10752)
    data = inputs(**sizes, dtype=dtype)
    given = data.double()
    found = checks.both_passes(*_on_gpu(), data, upstream(data))
    exact = checks.both_passes(torch.ops.tmt, torch.device("cpu"), given, upstream(given))
    for got, right in zip(found, exact, strict=True):
        assert_close(got.cpu(), right, kernel_checks.LIMITS[dtype])


@pytest.mark.gpu
def test_captured():
    from test_cuda import capture

    checks.check_captured(capture, GPU, kernel_checks.check_captured)
