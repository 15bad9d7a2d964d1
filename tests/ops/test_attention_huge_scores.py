"""packed_attention where scores are huge or infinite: weights are at most 1 at every SIMD level."""

import math

import kernel_checks
import pytest
import torch
from helpers import assert_close, gradients, run_at_level

import tmt_ext
from tmt_ext.reference import masked_attention

LEVELS = ["portable", "avx2", "avx512"]


def check_huge_scores(dtype, size):
    """Scores of about size ** 2: each query attends its nearest key alone, whose value gets the gradient."""
    generator = torch.Generator().manual_seed(0)
    query, key = (size * torch.randn(1, 2, n, 16, generator=generator) for n in (9, 2100))
    value = torch.randn(1, 2, 2100, 16, generator=generator)
    qkv = [x.to(dtype) for x in (query, key, value)]
    (output,), grads = gradients(tmt_ext.packed_attention, qkv)
    (expected,), expected_grads = gradients(masked_attention, [x.double() for x in qkv])
    limit = 1e-6 if dtype == torch.float32 else 1e-2
    assert_close(output, expected, limit, "output")
    assert_close(grads[2], expected_grads[2], limit, "gradient of value")
    assert all(not grad.any() for grad in grads[:2]) and not expected_grads[0].any()  # weights of 1 do not move


def check_infinite_scores():
    """Keys whose score is -inf get no weight, though they fill the first of two parts that keys are divided into."""
    generator = torch.Generator().manual_seed(0)
    query = torch.rand(1, 1, 3, 8, generator=generator) + 1
    key, value = (torch.randn(1, 1, 2048, 8, generator=generator) for _ in range(2))
    key -= 200
    key[:, :, :1024] = -math.inf
    (output,), (_, _, grad) = gradients(tmt_ext.packed_attention, [query, key, value])
    (expected,), (_, _, expected_grad) = gradients(masked_attention, [x.double() for x in (query, key, value)])
    assert_close(output, expected, 1e-3, "output")  # float32 rounds scores of -600 so
    assert_close(grad, expected_grad, 1e-3, "gradient of value")
    assert not grad[:, :, :1024].any()


@pytest.mark.parametrize("level", LEVELS)
def test_at_every_simd_level(level):
    script = """
import torch
from test_attention_huge_scores import check_huge_scores, check_infinite_scores
for size in (1e3, 3e3, 1e5, 1e9):
    check_huge_scores(torch.float32, size)
check_huge_scores(torch.bfloat16, 1e5)
check_infinite_scores()
"""
    if not run_at_level(level, script):
        pytest.skip(f"no {level} here")


def test_float64():
    generator = torch.Generator().manual_seed(0)
    qkv = [scale * torch.randn(1, 1, 40, 8, generator=generator).double() for scale in (1e9, 1e9, 1)]
    _, grads = gradients(tmt_ext.packed_attention, qkv)
    _, expected = gradients(masked_attention, qkv)
    assert_close(grads[2], expected[2], 1e-12)


@pytest.mark.parametrize("dtype", kernel_checks.DTYPES)
def test_no_weight_is_above_1(dtype):
    kernel_checks.check_attention_weights(torch.ops.tmt, torch.device("cpu"), dtype)
