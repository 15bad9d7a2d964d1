"""The attention of half precision and the packing of masks in CUDA, at the edges of their tiles.

Emulated on the CPU, and on a GPU where there is one.
"""

import functools
import math
import re
from typing import NamedTuple

import emulated
import kernel_checks as checks
import pytest
import torch
from attention_inputs import inputs, thresholds
from attention_layouts import COPIED_FOR_CHUNKS, LAYOUTS, columns_apart, copies, rows_first
from helpers import assert_close, relative_error
from torch._subclasses.fake_tensor import FakeTensorMode

import tmt_ext
from tmt_ext import reference
from tmt_ext._reference_attention import attention, unpack_bits

HALF = [torch.bfloat16, torch.float16]
# B, heads, N, S, D: one row and key; a warp's 16 rows and one more; a block's 112 and one more; more queries than a
# block of the backward holds; keys in several tiles, cut; heads that fill no power of two; the widest.
CASES = [
    (1, 1, 1, 1, 16),
    (1, 1, 16, 64, 32),
    (1, 1, 17, 65, 32),
    (1, 1, 113, 129, 32),
    (2, 2, 40, 330, 16),
    (1, 2, 100, 450, 32),
    (1, 1, 130, 290, 32),
    (1, 1, 30, 320, 64),
    (1, 1, 130, 150, 64),
    (1, 1, 9, 140, 128),
    (1, 1, 70, 200, 128),
    (1, 1, 18, 66, 8),
    (1, 1, 18, 130, 40),
    (1, 1, 5, 70, 104),
]


class Kernels(NamedTuple):
    ops: object
    device: torch.device


@pytest.fixture(scope="module", params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def kernels(request):
    if request.param == "emulated":
        emulated.load()
        return Kernels(torch.ops.tmt_emulated, torch.device("cpu"))
    return Kernels(torch.ops.tmt, torch.device("cuda", 0))


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("case", CASES)
def test_attention(kernels, case, dtype, masked):
    """Every fourth row falls back and attends everywhere; 30 % of the keys are for those rows alone."""
    checks.check_attention(*kernels, case, dtype, masked)


def packed(data, device, fallback="transfer"):
    """Bits as the operator takes them, and as (B, N, S) bool."""
    threshold = thresholds(data.transferability)
    bits = reference.pack_mask(**data.mask, transfer_threshold=threshold, fallback=fallback).bits
    return bits.to(device), unpack_bits(bits, data.key.shape[2])


@pytest.mark.parametrize("dim", [16, 32, 64, 128])
def test_keys_that_nobody_attends(kernels, dim):
    """They are not read, whatever is in them, and their gradients are exactly zero."""
    data = inputs(2, 2, 21, 330, dim, dtype=torch.bfloat16)
    bits, allowed = packed(data, kernels.device)
    unused = ~allowed.any(1)
    assert 0.2 < unused.double().mean() < 0.5
    oracle = [t.double().requires_grad_() for t in data.qkv]
    expected = attention(*oracle, allowed)
    right = torch.autograd.grad(expected.sum(), oracle)
    for matrix in (data.key, data.value):
        matrix.masked_fill_(unused[:, None, :, None], math.nan)
    qkv = [t.to(kernels.device) for t in data.qkv]
    output, lse, plan = kernels.ops.packed_attention(*qkv, bits)
    assert_close(output.cpu(), expected, 4e-3, "output")
    grads = kernels.ops.packed_attention_backward(torch.ones_like(output), *qkv, output, lse, plan, bits)
    for name, grad, gradient in zip(("query", "key", "value"), grads, right, strict=True):
        assert_close(grad.cpu(), gradient, 16e-3, f"gradient of {name}")
    for grad in grads[1:]:
        assert not grad.cpu()[unused[:, None].expand(grad.shape[:3])].any()


@pytest.mark.parametrize("dtype", HALF)
def test_rows_without_any_bit(kernels, dtype):
    data = inputs(1, 2, 19, 200, 32, dtype=dtype)
    bits, _ = packed(data, kernels.device)
    bits[:, 2] = 0
    bits[:, 16:] = 0  # the whole of a warp's rows
    qkv = [t.to(kernels.device) for t in data.qkv]
    output, lse, plan = kernels.ops.packed_attention(*qkv, bits)
    grads = kernels.ops.packed_attention_backward(torch.ones_like(output), *qkv, output, lse, plan, bits)
    for rows in (2, slice(16, None)):
        assert not output[:, :, rows].any() and (lse[:, :, rows] == -math.inf).all() and not grads[0][:, :, rows].any()
    assert output[:, :, 3].any() and lse[:, :, 3].isfinite().all() and all(g.isfinite().all() for g in grads)
    nothing = torch.zeros_like(bits)
    output, lse, plan = kernels.ops.packed_attention(*qkv, nothing)
    grads = kernels.ops.packed_attention_backward(torch.ones_like(output), *qkv, output, lse, plan, nothing)
    assert not output.any() and (lse == -math.inf).all() and not any(g.any() for g in grads)


@pytest.mark.parametrize(("scale", "dtype"), [(60.0, torch.float16), (3e4, torch.bfloat16), (1e-4, torch.float16)])
def test_extremes(kernels, scale, dtype):
    """Scores to 1e10, where one key has all the weight, and scores next to 0."""
    data = inputs(1, 2, 20, 150, 32, dtype=dtype, scale=scale)
    qkv = [t.to(kernels.device) for t in (data.query, data.key, inputs(1, 2, 20, 150, 32, dtype=dtype).value)]
    oracle = attention(*(t.double().cpu() for t in qkv), None)
    output, lse, plan = kernels.ops.packed_attention(*qkv, None)
    assert_close(output.cpu(), oracle, 2 * checks.LIMITS[dtype], "output")
    scores = qkv[0].double().cpu() @ qkv[1].double().cpu().mT / math.sqrt(32)
    assert_close(lse.cpu(), scores.logsumexp(-1), 1e-5, "lse")
    grads = kernels.ops.packed_attention_backward(torch.ones_like(output), *qkv, output, lse, plan, None)
    assert all(g.isfinite().all() for g in grads)


def test_one_broken_row(kernels):
    """A NaN stays in the row that has it, though 16 rows share each product."""
    data = inputs(1, 2, 40, 150, 32, dtype=torch.bfloat16)
    data.query[0, 0, 3, 5] = math.nan
    output, lse, _ = kernels.ops.packed_attention(*(t.to(kernels.device) for t in data.qkv), None)
    broken = output.isnan().any(-1)
    assert broken[0, 0].tolist() == [n == 3 for n in range(40)] and broken.sum() == 1
    assert torch.equal(lse.isnan(), broken)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize("broken", ["query", "key"])
def test_nan_is_not_hidden(kernels, broken, dtype, masked):
    checks.check_attention_nan(*kernels, dtype, masked, broken)


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(kernels, layout, dtype):
    checks.check_attention_layout(*kernels, layout, dtype)


@pytest.mark.parametrize("dtype", checks.DTYPES)
def test_layouts_of_nothing(kernels, dtype):
    checks.check_attention_layout_empty(*kernels, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_copies_only_what_cannot_be_read(kernels, layout, dtype):
    """Of the tensor in question alone: where value is one, key is not copied."""
    data = inputs(2, 2, 20, 100, 32, dtype=dtype)
    query, key, value = (t.to(kernels.device) for t in data.qkv)
    copied = layout is columns_apart or (layout in COPIED_FOR_CHUNKS and dtype != torch.float32)
    call = functools.partial(checks.attend_and_differentiate, kernels.ops, query, key, layout(value), None, query)
    call()
    assert copies(call) == 2 * copied


def everything(kernels, dtype):
    results = []
    for case in ((2, 2, 100, 300, 32), (1, 1, 130, 200, 128)):
        data = inputs(*case, dtype=dtype)
        bits, _ = packed(data, kernels.device, "all")
        qkv = [t.to(kernels.device) for t in data.qkv]
        output, lse, plan = kernels.ops.packed_attention(*qkv, bits)
        results += [output, lse, *kernels.ops.packed_attention_backward(output, *qkv, output, lse, plan, bits)]
    embeddings, features = torch.randn(1, 20, 24).to(dtype), torch.randn(1, 24, 200).to(dtype)
    results += kernels.ops.pack_predicted_mask(embeddings, features, None, None, 0.1, 1, 0)
    return results


@pytest.mark.parametrize("dtype", HALF)
def test_same_bits_in_any_order_on_any_gpu(dtype):
    kernels = Kernels(torch.ops.tmt_emulated, torch.device("cpu"))
    emulated.load()
    torch.manual_seed(0)
    expected = everything(kernels, dtype)
    try:
        for order, architecture in ((1, 90), (5, 90), (0, 86)):
            emulated.set_order(order)
            emulated.set_architecture(architecture)
            torch.manual_seed(0)
            results = everything(kernels, dtype)
            exact = architecture == 90  # the number of splits depends on the GPU
            for a, b in zip(results, expected, strict=True):
                assert torch.equal(a, b) if exact else relative_error(a, b) < checks.LIMITS[dtype]
    finally:
        emulated.set_order(0)
        emulated.set_architecture(90)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize("dim", [32, 40, 100, 128, 136])
def test_compilers_know_the_results(dim, dtype, masked):
    """Shapes, strides and dtypes of the CUDA kernels' results are those that torch's compiler is told."""
    emulated.load()
    qkv = [rows_first(t) for t in inputs(2, 3, 21, 150, dim, dtype=dtype).qkv]
    bits = torch.zeros(2, 21, 3, dtype=torch.int64) if masked else None
    found = torch.ops.tmt_emulated.packed_attention(*qkv, bits)
    gradients = torch.ops.tmt_emulated.packed_attention_backward(qkv[0], *qkv, *found, bits)
    with FakeTensorMode():
        q, k, v, b = (
            t if t is None else torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cuda")
            for t in (*qkv, bits)
        )
        told = torch.ops.tmt.packed_attention(q, k, v, b)
        told = [*told, *torch.ops.tmt.packed_attention_backward(q, q, k, v, *told, b)]
    for result, fake in zip((*found, *gradients), told, strict=True):
        assert (result.shape, result.stride(), result.dtype) == (fake.shape, fake.stride(), fake.dtype)


# ---- time on the host ------------------------------------------------------------------------------------------------


def attend(dtype, masked, dim=32):
    """A function that attends at a size of the model's, and differentiates that."""
    data = inputs(2, 8, 100, 2048, dim, dtype=dtype)
    bits = torch.zeros(2, 100, 32, dtype=torch.int64) if masked else None
    return functools.partial(
        checks.attend_and_differentiate, torch.ops.tmt_emulated, *data.qkv, bits, torch.zeros_like(data.query)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_driver_is_asked_once(dtype):
    library, call = emulated.load(), attend(dtype, True, dim=128)
    emulated.launches(call, 90)
    asked = library.tmt_emulation_questions()
    emulated.launches(call, 90)
    assert library.tmt_emulation_questions() == asked
    emulated.launches(call, 80)  # another device, with less shared memory
    assert library.tmt_emulation_questions() > asked or dtype == torch.float32
    asked = library.tmt_emulation_questions()
    emulated.launches(call, 90)
    assert library.tmt_emulation_questions() == asked


@pytest.mark.parametrize(("masked", "forward", "backward"), [(True, 4, 2), (False, 2, 2)])
def test_launches(masked, forward, backward):
    """The plan of the keys where there is a mask, the attention, and the sum of its splits."""
    launches = emulated.launches(attend(torch.bfloat16, masked))
    kernels = [re.search(r"::(\w+)(<.*>)?\(", launch.kernel)[1] for launch in launches]
    assert kernels[: forward - 2] == (["order_keys", "arrange_bits"] if masked else [])
    assert kernels[forward - 2 :] == ["attend_rows", "merge_splits", "attend_keys", "add_splits"]
    assert len(kernels) == forward + backward


# ---- predicted masks ------------------------------------------------------------------------------------------------

# B, N, E, S: one of each; rows, channels and keys of no multiple of 8, which go without tensor cores; rows, channels
# and keys that fill no tile; more rows than a block holds.
PREDICTED = [(1, 1, 1, 1), (2, 5, 9, 70), (1, 17, 40, 136), (1, 100, 256, 320), (1, 130, 72, 200), (2, 33, 8, 512)]


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize(("rule", "fallback"), [("uncertain", "all"), ("foreground", "transfer")])
@pytest.mark.parametrize("shape", PREDICTED)
def test_pack_predicted_mask(kernels, shape, rule, fallback, dtype):
    batch, queries, channels, keys = shape
    g = torch.Generator().manual_seed(0)
    embeddings = (torch.randn(batch, queries, channels, generator=g) / math.sqrt(channels)).to(dtype)
    embeddings[:, 1::4] = math.nan  # these rows fall back
    features = torch.randn(batch, channels, keys, generator=g).to(dtype)
    transferability = torch.rand(batch, keys, generator=g)
    transferability[-1, : 128 if keys > 128 else 0] = 0.95  # a whole tile that T excludes
    logits = embeddings.double() @ features.double()
    threshold = math.log(0.4 / 0.6)
    unsure = (logits - threshold).abs() <= 2e-7 * channels * (embeddings.double().abs() @ features.double().abs())
    assert unsure.double().mean() < 1e-3
    options = dict(mask_threshold=0.4, rule=rule, fallback=fallback)
    for t, limit in ((None, None), (transferability, torch.full((batch,), 0.7))):
        expected = reference.pack_mask(logits, t, transfer_threshold=limit, **options)
        given = [None if x is None else x.to(kernels.device) for x in (embeddings, features, t, limit)]
        numbers = tmt_ext.Rule[rule], tmt_ext.Fallback[fallback]
        bits, allowed = kernels.ops.pack_predicted_mask(*given, threshold, *numbers)
        flips = unpack_bits(bits.cpu(), keys) != unpack_bits(expected.bits, keys)
        assert not (flips & ~unsure).any()
        assert ((allowed.cpu() - expected.allowed).abs() <= unsure.sum(-1)).all()
        assert torch.equal(unpack_bits(bits.cpu(), keys).sum(-1)[allowed.cpu() > 0], allowed.cpu()[allowed.cpu() > 0])


def test_predicted_mask_of_nothing(kernels):
    for batch, queries, keys in ((0, 3, 70), (2, 0, 72), (2, 3, 0)):
        for dtype in (torch.float32, torch.bfloat16):
            embeddings = torch.zeros(batch, queries, 8, dtype=dtype, device=kernels.device)
            features = torch.zeros(batch, 8, keys, dtype=dtype, device=kernels.device)
            bits, allowed = kernels.ops.pack_predicted_mask(embeddings, features, None, None, 0.0, 1, 0)
            assert bits.shape == (batch, queries, -(-keys // 64)) and not allowed.any()


@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize("keys", [8, 512, 2056, 4104])
def test_pack_mask_of_several_rounds(kernels, keys, dtype):
    """More keys than a block takes at a time, and rows that can be read eight keys at once."""
    checks.check_pack_mask(*kernels, "uncertain", "transfer", keys, dtype)
