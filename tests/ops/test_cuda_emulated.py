"""The CUDA kernels' own source, compiled for the CPU and run thread by thread, against the float64 reference."""

import emulated
import kernel_checks as checks
import pytest
import torch
from attention_inputs import CHOICES

CPU = torch.device("cpu")
ORDERS = [0, 1, 5]  # in which threads and blocks take turns: ascending, descending, random


@pytest.fixture(scope="module")
def ops():
    emulated.load()
    return torch.ops.tmt_emulated


@pytest.fixture(params=ORDERS)
def order(request):
    emulated.set_order(request.param)
    yield request.param
    emulated.set_order(0)


@pytest.mark.parametrize(("shape", "cell"), checks.SUPERPIXEL_CASES)
def test_superpixel(ops, order, shape, cell):
    checks.check_superpixel(ops, CPU, shape, cell)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("shape", "cell"), checks.SUPERPIXEL_CASES[:3])
def test_superpixel_half_precision(ops, shape, cell, dtype):
    checks.check_superpixel(ops, CPU, shape, cell, dtype)


def test_superpixel_extremes(ops):
    checks.check_superpixel_extremes(ops, CPU)


def test_superpixel_ties(ops):
    checks.check_superpixel_ties(ops, CPU)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("case", checks.ATTENTION_CASES)
def test_attention(ops, case, masked):
    checks.check_attention(ops, CPU, case, masked=masked)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", checks.ATTENTION_CASES[:4])
def test_attention_half_precision(ops, case, dtype):
    checks.check_attention(ops, CPU, case, dtype)


def test_attention_extremes(ops):
    checks.check_attention_extremes(ops, CPU)


@pytest.mark.parametrize("dtype", checks.DTYPES)
def test_attention_weights(ops, dtype):
    checks.check_attention_weights(ops, CPU, dtype)


@pytest.mark.parametrize("keys", [1, 64, 65, 150])
@pytest.mark.parametrize(("rule", "fallback"), CHOICES)
def test_pack_mask(ops, rule, fallback, keys):
    checks.check_pack_mask(ops, CPU, rule, fallback, keys)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pack_mask_half_precision(ops, dtype):
    checks.check_pack_mask(ops, CPU, "foreground", "transfer", 150, dtype)


def test_rows_without_any_bit(ops):
    checks.check_rows_without_any_bit(ops, CPU)


# ---- what is checked at large sizes on a GPU ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_superpixel_against_float32(ops, dtype):
    checks.check_superpixel_against_full(ops, CPU, (2, 40, 16, 24), 8, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_against_float32(ops, dtype):
    checks.check_attention_against_full(ops, CPU, (2, 2, 20, 150, 32), dtype)


def run_again(run, given):
    """In place of a CUDA graph: (results, what makes them anew)."""
    results = run(*given)

    def replay():
        for old, new in zip(results, run(*given), strict=True):
            old.copy_(new)

    return results, replay


def test_captured(ops):
    checks.check_superpixel_captured(ops, CPU, run_again, (1, 40, 16, 24), 8)
    checks.check_attention_captured(ops, CPU, run_again, (1, 2, 20, 150, 32))


def test_a_graph_that_keeps_old_results_is_noticed(ops):
    def never_again(run, given):
        return run(*given), lambda: None

    with pytest.raises(AssertionError):
        checks.check_superpixel_captured(ops, CPU, never_again, (1, 40, 16, 24), 8)


def test_nothing_to_do(ops):
    checks.check_attention_empty(ops, CPU)
    checks.check_pack_mask_empty(ops, CPU)
    outputs = ops.superpixel(torch.zeros(0, 4, 6, 7), 4, 2, 1.0)
    assert [tuple(t.shape) for t in outputs] == [(0, 4, 2, 2), (0, 9, 6, 7), (0, 6, 7), (0, 3, 4, 4), (0, 2, 4)]


def test_non_contiguous(ops):
    checks.check_non_contiguous(ops, CPU)


def test_same_bits_in_any_order(ops):
    results = []
    for seed in (*ORDERS, 6):
        emulated.set_order(seed)
        results.append(checks.everything(ops, CPU))
    emulated.set_order(0)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_float64_is_refused(ops):
    with pytest.raises(RuntimeError, match="superpixel: dtype must be float32, .* got float64"):
        ops.superpixel(torch.zeros(1, 2, 4, 4, dtype=torch.float64), 2, 1, 1.0)
    x = torch.zeros(1, 1, 2, 8, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="packed_attention: dtype must be float32, .* got float64"):
        ops.packed_attention(x, x, x, None)
