"""tmt_ext.masked_attention and packed_attention on the CPU against their float64 reference, and it against loops."""

import functools
import math

import kernel_checks as checks
import numpy as np
import pytest
import torch
from attention_inputs import CHOICES, inputs, oracle, thresholds
from attention_layouts import LAYOUTS, columns_apart, copies
from helpers import assert_close, assert_twice, gradients, relative_error, run_at_level

import tmt_ext
from tmt_ext import reference
from tmt_ext._reference_attention import attention, unpack_bits

# batch, heads, queries, keys, dim: partial tiles, many blocks of queries, several splits of the keys, every D.
SHAPES = [
    (2, 2, 7, 150, 32),
    (1, 1, 100, 5000, 20),
    (2, 3, 300, 129, 8),
    (1, 2, 9, 64, 256),
    (1, 1, 5, 65, 1),
    (3, 1, 13, 200, 33),
    (2, 8, 100, 1024, 32),
    (1, 2, 4, 2, 7),
]
# What the op adds to plain attention comes from these options of pack_mask.
OPTIONS = dict(mask_threshold=0.6, rule="uncertain", fallback="all")


def attend(data, **options):
    def function(*qkv):
        return tmt_ext.masked_attention(*qkv, **data.mask, **options)

    return function


def with_threshold(data, **options):
    return {**OPTIONS, "transfer_threshold": thresholds(data.transferability), **options}


def assert_matches(function, expected, qkv, limit=1e-5):
    """Result and gradients of `function` are within `limit` of those of `expected` in float64."""
    (output,), grads = gradients(function, qkv)
    (right,), right_grads = gradients(expected, [x.double() for x in qkv])
    assert_close(output, right, limit, "output")
    for name, grad, right_grad in zip(("query", "key", "value"), grads, right_grads, strict=True):
        assert_close(grad, right_grad, limit, f"gradient of {name}")


def loops(query, key, value, allowed):
    """One (N, D) result by Eq. 12, query by query; allowed (N, S) bool."""
    output = np.zeros_like(query)
    for n in range(len(query)):
        scores = [query[n] @ row / math.sqrt(len(row)) for row in key]
        weights = [math.exp(score) if may else 0.0 for score, may in zip(scores, allowed[n], strict=True)]
        output[n] = sum(w * v for w, v in zip(weights, value, strict=True)) / sum(weights)
    return output


@pytest.mark.parametrize("rule,fallback", CHOICES)
def test_reference_is_the_definition(rule, fallback):
    data = inputs(batch=2, heads=2, queries=5, keys=9, dim=3)
    options = dict(transfer_threshold=0.4, rule=rule, fallback=fallback)
    allowed, _ = reference.allowed_mask(**data.mask, **options)
    output = reference.masked_attention(*data, **options)
    for b, h in np.ndindex(2, 2):
        expected = loops(*(x[b, h].numpy() for x in data.qkv), allowed[b].numpy())
        np.testing.assert_allclose(output[b, h].numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule,fallback", CHOICES)
def test_float32(rule, fallback, shape):
    data = inputs(*shape, dtype=torch.float32)
    options = with_threshold(data, rule=rule, fallback=fallback)
    assert_matches(attend(data, **options), oracle(data, **options), data.qkv)


@pytest.mark.parametrize("shape", SHAPES)
def test_without_mask(shape):
    data = inputs(*shape, dtype=torch.float32)
    assert_matches(tmt_ext.packed_attention, lambda *qkv: attention(*qkv, None), data.qkv)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES[:4])
def test_half_precision(shape, dtype):
    data = inputs(*shape, dtype=dtype)
    options = with_threshold(data)

    def plain(*qkv):
        return reference.masked_attention(*qkv, **data.mask, **options)

    (output,), grads = gradients(attend(data, **options), data.qkv)
    (usual,), usual_grads = gradients(plain, data.qkv)
    (right,), right_grads = gradients(oracle(data, **options), [x.double() for x in data.qkv])
    assert output.dtype == dtype
    for actual, expected, exact in zip((output, *grads), (usual, *usual_grads), (right, *right_grads), strict=True):
        assert_twice(actual, expected, exact)


@pytest.mark.parametrize("rule,fallback", CHOICES)
def test_gradcheck(rule, fallback):
    data = inputs(batch=1, queries=4, keys=9, dim=3)
    qkv = [x.requires_grad_() for x in data.qkv]
    torch.autograd.gradcheck(attend(data, **with_threshold(data, rule=rule, fallback=fallback)), qkv)


@pytest.mark.parametrize("masked", [True, False])
def test_gradcheck_over_tiles(masked):
    data = inputs(batch=1, queries=8, keys=130, dim=5)
    function = attend(data, **with_threshold(data)) if masked else tmt_ext.packed_attention
    torch.autograd.gradcheck(function, [x.requires_grad_() for x in data.qkv], fast_mode=True)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_lse(dtype, masked):
    data = inputs(dtype=dtype)
    packed = tmt_ext.pack_mask(**data.mask, transfer_threshold=0.7)
    allowed = unpack_bits(packed.bits, 150).unsqueeze(1) if masked else torch.tensor(True)
    lse = torch.ops.tmt.packed_attention(*data.qkv, packed.bits if masked else None)[1]
    scores = data.query.double() @ data.key.double().mT / math.sqrt(32)
    assert lse.dtype == dtype
    expected = scores.masked_fill(~allowed, -math.inf).logsumexp(-1) / math.log(2)  # the CPU's is in powers of 2
    assert_close(lse, expected, 1e-6)


# ---- against torch's own attention ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["uncertain", "foreground"])
def test_equals_sdpa_where_no_row_is_empty(rule):
    data = inputs(queries=10, keys=300, dtype=torch.float32)
    mask = data.mask_logits.nan_to_num(0.0)  # logit 0 passes both rules
    allowed = mask <= 0 if rule == "uncertain" else mask >= 0
    expected = torch.nn.functional.scaled_dot_product_attention(*data.qkv, allowed.unsqueeze(1))
    assert_close(tmt_ext.masked_attention(*data.qkv, mask, rule=rule), expected)


def test_equals_the_mask2former_path():
    """sigmoid, threshold, repeat over heads, rows that mask everything reset, nn.MultiheadAttention."""
    heads, data = 4, inputs(queries=10, keys=77)
    layer = torch.nn.MultiheadAttention(32, heads, batch_first=True)
    queries, memory = data.query[:, 0].float(), data.key[:, 0].float()
    blocked = (data.mask_logits.sigmoid() < 0.5) | data.mask_logits.isnan()
    blocked[blocked.all(-1)] = False
    expected, _ = layer(queries, memory, memory, attn_mask=blocked.repeat_interleave(heads, 0))
    projections = zip(
        (queries, memory, memory), layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3), strict=True
    )
    qkv = [torch.nn.functional.linear(x, w, b).unflatten(-1, (heads, -1)).transpose(1, 2) for x, w, b in projections]
    output = tmt_ext.masked_attention(*qkv, data.mask_logits, rule="foreground", fallback="all")
    assert_close(layer.out_proj(output.transpose(1, 2).flatten(2)), expected)


# ---- edge cases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queries,keys", [(1, 1), (1, 70), (5, 1)])
def test_one_query_or_key(queries, keys):
    data = inputs(queries=queries, keys=keys, dtype=torch.float32)
    options = with_threshold(data)
    (output,), grads = gradients(attend(data, **options), data.qkv)
    (right,), right_grads = gradients(oracle(data, **options), [x.double() for x in data.qkv])
    assert_close(output, right)
    for grad, right_grad in zip(grads, right_grads, strict=True):  # of query and key, 0 where there is one key
        torch.testing.assert_close(grad.double(), right_grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 2, 3, 70, 8), (2, 0, 3, 70, 8), (2, 2, 0, 70, 8)])
def test_empty(shape):
    data = inputs(*shape, dtype=torch.float32)
    (output,), grads = gradients(attend(data, **OPTIONS, transfer_threshold=0.5), data.qkv)
    assert output.shape == data.query.shape
    assert all(not g.any() and g.shape == x.shape for g, x in zip(grads, data.qkv, strict=True))


def test_no_keys():
    query, key = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 0, 8)
    output, lse, _ = torch.ops.tmt.packed_attention(query, key, key, None)
    assert not output.any() and (lse == -math.inf).all()


@pytest.mark.parametrize("fallback", ["all", "transfer"])
@pytest.mark.parametrize("passing", [0.7, 0.0])
def test_all_rows_fall_back(passing, fallback):
    data = inputs(keys=200, dtype=torch.float32)
    data = data._replace(mask_logits=torch.full_like(data.mask_logits, 9.0))
    options = with_threshold(data, fallback=fallback, transfer_threshold=passing)
    assert_matches(attend(data, **options), oracle(data, **options), data.qkv)


@pytest.mark.parametrize("fallback", ["all", "transfer"])
@pytest.mark.parametrize("passing", [0.3, 1.0])
@pytest.mark.parametrize("density", [0.001, 0.02, 0.2, 0.6])
def test_sparse_masks(density, passing, fallback):
    """Keys are dropped and reordered by what the rows attend; some rows attend everything, some fall back."""
    data = inputs(1, 2, queries=40, keys=1000, dim=16, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    centres, width = torch.randint(1000, (1, 40, 1), generator=generator), density * 1000 / 2
    regions = (torch.arange(1000) - centres).abs() < width  # half the rows: an interval; half: scattered keys
    scattered = torch.rand(1, 40, 1000, generator=generator) < density
    allowed = torch.where(torch.arange(40).view(1, -1, 1) % 2 == 0, regions, scattered)
    allowed[:, 5::13] = True
    data = data._replace(mask_logits=torch.where(allowed, -1.0, 1.0))
    options = dict(transfer_threshold=thresholds(data.transferability, passing), fallback=fallback)
    assert_matches(attend(data, **options), oracle(data, **options), data.qkv)


def test_rows_without_any_bit():
    data = inputs(keys=100, dtype=torch.float32)
    bits = tmt_ext.pack_mask(**data.mask, transfer_threshold=0.7).bits
    bits[:, 2] = 0
    output, lse, _ = torch.ops.tmt.packed_attention(*data.qkv, bits)
    assert not output[:, :, 2].any() and (lse[:, :, 2] == -math.inf).all() and lse[:, :, 3].isfinite().all()
    others = torch.arange(7) != 2
    allowed = unpack_bits(bits, 100)[:, others]
    _, grads = gradients(lambda *qkv: tmt_ext.packed_attention(*qkv, bits)[:, :, others], data.qkv)
    _, right = gradients(lambda q, k, v: attention(q[:, :, others], k, v, allowed), [x.double() for x in data.qkv])
    for grad, right_grad in zip(grads, right, strict=True):
        assert_close(grad, right_grad)
    _, grads = gradients(lambda *qkv: tmt_ext.packed_attention(*qkv, bits)[:, :, 2], data.qkv)
    assert not any(g.any() for g in grads)


@pytest.mark.parametrize("scale", [100.0, 1e-20])
def test_huge_and_tiny_scores(scale):
    data = inputs(keys=500, dtype=torch.float32, scale=scale)  # scores to 4e4, and to 1e-40
    options = with_threshold(data)
    plain = reference.masked_attention(*data.qkv, **data.mask, **options)
    assert_twice(tmt_ext.masked_attention(*data.qkv, **data.mask, **options), plain, oracle(data, **options)(*data.qkv))
    assert all(g.isfinite().all() for g in gradients(attend(data, **options), data.qkv)[1])


def test_nan_stays_in_its_row():
    data = inputs(dtype=torch.float32)
    data.query[0, 0, 3, 5] = math.nan
    broken = tmt_ext.masked_attention(*data, **with_threshold(data)).isnan().any(-1)
    assert broken[0, 0].tolist() == [n == 3 for n in range(7)] and broken.sum() == 1


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("broken", ["query", "key"])
def test_nan_is_not_hidden(broken, dtype, masked):
    checks.check_attention_nan(torch.ops.tmt, torch.device("cpu"), dtype, masked, broken)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, dtype):
    checks.check_attention_layout(torch.ops.tmt, torch.device("cpu"), layout, dtype)


def test_layouts_of_nothing():
    checks.check_attention_layout_empty(torch.ops.tmt, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_copies_only_what_has_no_rows(layout):
    qkv = [layout(t) for t in inputs(dtype=torch.float32).qkv]
    call = functools.partial(checks.attend_and_differentiate, torch.ops.tmt, *qkv, None, layout(qkv[0]))
    assert copies(call) == (7 if layout is columns_apart else 0)  # three forward, four backward


def test_strided_bits():
    data = inputs(dtype=torch.float32)
    bits = tmt_ext.pack_mask(**data.mask, transfer_threshold=0.7).bits
    strided = bits.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(tmt_ext.packed_attention(*data.qkv, strided), tmt_ext.packed_attention(*data.qkv, bits))


# ---- threads and processors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 10, 6000, 16), (2, 3, 20, 300, 16)])
def test_same_bits_for_any_number_of_threads(shape):
    data = inputs(*shape, dtype=torch.float32)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        (output,), grads = gradients(attend(data, **with_threshold(data)), data.qkv)
        results.append((output, *grads))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


# Run in a process of its own for each SIMD level, which is chosen when the extension is first used.
LEVEL = """
import sys, torch, tmt_ext
from attention_inputs import inputs
from helpers import gradients
results = [tmt_ext.build_info()["simd_active"]]
for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
    data = inputs(queries=20, keys=333, dim=37, dtype=dtype)
    bits = tmt_ext.pack_mask(data.mask_logits.to(dtype), data.transferability.to(dtype), transfer_threshold=0.7).bits
    (output,), grads = gradients(lambda *qkv: tmt_ext.packed_attention(*qkv, bits), data.qkv)
    results += [bits, output.detach(), *grads]
torch.save(results, sys.argv[1])
"""


def test_simd_levels_agree(tmp_path):
    results = {}
    for level in tmt_ext.build_info()["simd_levels"]:
        if run_at_level(level, LEVEL, tmp_path / level):
            results[level] = torch.load(tmp_path / level)
            assert results[level][0] == level
    for tensors in zip(*(r[1:] for r in results.values()), strict=True):
        for other in tensors[1:]:
            limit = 0 if other.dtype == torch.int64 else 1e-6 if other.dtype.itemsize > 2 else 5e-3
            assert relative_error(other, tensors[0]) <= limit
