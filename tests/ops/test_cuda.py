"""The CUDA kernels on a GPU: against the float64 reference, against the CPU kernels, and as part of torch."""

import kernel_checks as checks
import pytest
import torch
from attention_inputs import CHOICES, inputs, thresholds
from helpers import assert_close, gradients
from superpixel_cases import CASES, KAPPA, assert_labels, features

import tmt_ext

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda", 0)
# (B, C, H, W), cell and B, heads, N, S, D: what the goals are set for, three images of the superpixels' sixteen.
GOAL_SUPERPIXEL = ((3, 256, 128, 256), 8)
GOAL_ATTENTION = (16, 8, 100, 8192, 32)
LARGE_ATTENTION = [(2, 8, 100, 2048, 32), (1, 2, 300, 5000, 64), (1, 1, 100, 40000, 20)]


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize(("shape", "cell"), [*checks.SUPERPIXEL_CASES, *CASES])
def test_superpixel(shape, cell, dtype):
    checks.check_superpixel(torch.ops.tmt, GPU, shape, cell, dtype)


def test_superpixel_extremes():
    checks.check_superpixel_extremes(torch.ops.tmt, GPU)


def test_superpixel_ties():
    checks.check_superpixel_ties(torch.ops.tmt, GPU)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize("case", [*checks.ATTENTION_CASES, *LARGE_ATTENTION])
def test_attention(case, dtype, masked):
    checks.check_attention(torch.ops.tmt, GPU, case, dtype, masked)


def test_attention_extremes():
    checks.check_attention_extremes(torch.ops.tmt, GPU)


@pytest.mark.parametrize("dtype", checks.DTYPES)
def test_attention_weights(dtype):
    checks.check_attention_weights(torch.ops.tmt, GPU, dtype)


def test_rows_without_any_bit():
    checks.check_rows_without_any_bit(torch.ops.tmt, GPU)


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize("keys", [1, 64, 65, 150, 3000])
@pytest.mark.parametrize(("rule", "fallback"), CHOICES)
def test_pack_mask(rule, fallback, keys, dtype):
    checks.check_pack_mask(torch.ops.tmt, GPU, rule, fallback, keys, dtype)


def test_nothing_to_do():
    checks.check_attention_empty(torch.ops.tmt, GPU)
    checks.check_pack_mask_empty(torch.ops.tmt, GPU)
    assert tmt_ext.superpixel(torch.zeros(0, 4, 6, 7, device=GPU), 4).assignment.shape == (0, 9, 6, 7)


def test_non_contiguous():
    checks.check_non_contiguous(torch.ops.tmt, GPU)


def test_same_bits_twice():
    first, second = (checks.everything(torch.ops.tmt, GPU) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# ---- at the goals' sizes ---------------------------------------------------------------------------------------------


def test_superpixel_at_the_goals_size():
    checks.check_superpixel_against_full(torch.ops.tmt, GPU, *GOAL_SUPERPIXEL)


def test_attention_at_the_goals_size():
    checks.check_attention_against_full(torch.ops.tmt, GPU, GOAL_ATTENTION)


# ---- CUDA graphs ----------------------------------------------------------------------------------------------------


def capture(run, given):
    """(results, what makes them anew) by a CUDA graph; the call before it loads the kernels."""
    run(*given)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run(*given)
    return results, graph.replay


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize("case", [GOAL_SUPERPIXEL, ((1, 40, 16, 24), 8), ((1, 256, 256, 256), 8)])
def test_superpixel_captured(case, dtype):
    """Cooperative kernels, whose blocks wait for each other, and a launch per iteration."""
    checks.check_superpixel_captured(torch.ops.tmt, GPU, capture, *case, dtype)


@pytest.mark.parametrize("dtype", checks.DTYPES)
def test_attention_captured(dtype):
    checks.check_attention_captured(torch.ops.tmt, GPU, capture, LARGE_ATTENTION[0], dtype)


# ---- against the CPU kernels, through the public functions -----------------------------------------------------------


@pytest.mark.parametrize(("shape", "cell"), [((2, 256, 64, 128), 4), ((1, 128, 128, 128), 8), ((2, 19, 97, 61), 7)])
def test_superpixel_equals_cpu(shape, cell):
    x = features(shape, torch.float32)
    on_cpu, (grad_on_cpu,) = gradients(lambda y: tmt_ext.superpixel(y, cell), [x])
    on_gpu, (grad,) = gradients(lambda y: tuple(t.cpu() for t in tmt_ext.superpixel(y.to(GPU), cell)), [x])
    for a, b in zip((*on_gpu, grad), (*on_cpu, grad_on_cpu), strict=True):
        assert_close(a, b)
    result = tmt_ext.superpixel(x.to(GPU), cell)
    assert_labels(result.labels.cpu(), tmt_ext.superpixel(x, cell))


@pytest.mark.parametrize(("rule", "fallback"), CHOICES)
def test_masked_attention_equals_cpu(rule, fallback):
    data = inputs(2, 8, 100, 2048, 32, dtype=torch.float32)
    options = dict(rule=rule, fallback=fallback, transfer_threshold=thresholds(data.transferability))

    def on(device):
        moved = {name: t.to(device) for name, t in data.mask.items()}
        threshold = options["transfer_threshold"].to(device)
        given = {**options, "transfer_threshold": threshold}
        return lambda *qkv: tmt_ext.masked_attention(*(t.to(device) for t in qkv), **moved, **given).cpu()

    (a,), grads_a = gradients(on(GPU), data.qkv)
    (b,), grads_b = gradients(on("cpu"), data.qkv)
    for x, y in zip((a, *grads_a), (b, *grads_b), strict=True):
        assert_close(x, y)


# ---- as part of torch ------------------------------------------------------------------------------------------------


def test_opcheck():
    x = features((1, 5, 9, 10), torch.float32).to(GPU).requires_grad_()
    torch.library.opcheck(torch.ops.tmt.superpixel.default, (x, 4, 2, KAPPA))
    qkv = [t.to(GPU).requires_grad_() for t in inputs(keys=70, dtype=torch.float32).qkv]
    torch.library.opcheck(torch.ops.tmt.packed_attention.default, (*qkv, None))


def test_autocast():
    qkv = [t.to(GPU) for t in inputs(keys=70, dtype=torch.float32).qkv]
    x = features((1, 5, 9, 10), torch.bfloat16).to(GPU)
    with torch.autocast("cuda", torch.bfloat16):
        assert tmt_ext.packed_attention(*qkv).dtype == torch.bfloat16
        assert tmt_ext.superpixel(x, 4).assignment.dtype == torch.float32


def test_runs_on_the_current_stream():
    x = features((2, 64, 96, 96), torch.float32).to(GPU)
    expected = tmt_ext.superpixel(x, 4).region_features
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        y = torch.zeros_like(x)
        torch.cuda._sleep(20_000_000)  # what runs on another stream would see the zeros
        y.copy_(x)
        result = tmt_ext.superpixel(y, 4).region_features
    stream.synchronize()
    assert torch.equal(result, expected)


def test_other_devices_tensor_is_refused():
    q, k, v = (t.to(GPU) for t in inputs(keys=70, dtype=torch.float32).qkv)
    with pytest.raises(RuntimeError, match="packed_attention: value must be on the device of query"):
        tmt_ext.packed_attention(q, k, v.cpu())


def test_float64_is_refused():
    with pytest.raises(RuntimeError, match="superpixel: dtype must be float32, .* got float64"):
        tmt_ext.superpixel(torch.zeros(1, 2, 4, 4, dtype=torch.float64, device=GPU), 2)
