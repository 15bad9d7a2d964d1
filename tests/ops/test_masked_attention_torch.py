"""How tmt_ext.masked_attention fits into torch: opcheck, compile, autocast, autograd; and what it refuses."""

import math

import pytest
import torch
from attention_inputs import inputs, thresholds
from attention_layouts import LAYOUTS
from helpers import assert_close, gradients

import tmt_ext


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype, masked):
    data = inputs(keys=70, dtype=dtype)
    bits = tmt_ext.pack_mask(**data.mask, transfer_threshold=0.7).bits if masked else None
    qkv = [x.requires_grad_() for x in data.qkv]
    torch.library.opcheck(torch.ops.tmt.packed_attention.default, (*qkv, bits))
    with torch.no_grad():
        results = torch.ops.tmt.packed_attention(*qkv, bits)
    arguments = (torch.ones_like(data.query), *(x.detach() for x in qkv), *results, bits)
    torch.library.opcheck(torch.ops.tmt.packed_attention_backward.default, arguments)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck_layouts(layout):
    qkv = [layout(x) for x in inputs(3, 2, keys=70, dtype=torch.float32).qkv]
    with torch.no_grad():
        results = torch.ops.tmt.packed_attention(*qkv, None)
    arguments = (layout(torch.ones_like(qkv[0])), *qkv, *results, None)
    torch.library.opcheck(torch.ops.tmt.packed_attention_backward.default, arguments)
    torch.library.opcheck(torch.ops.tmt.packed_attention.default, (*(x.detach().requires_grad_() for x in qkv), None))


def test_compile():
    data = inputs(keys=130, dtype=torch.float32)
    threshold = thresholds(data.transferability)

    def function(query, key, value):
        result = tmt_ext.masked_attention(query.sin(), key, value, **data.mask, transfer_threshold=threshold)
        return result.cos()

    (output,), grads = gradients(torch.compile(function, fullgraph=True), data.qkv)
    (expected,), expected_grads = gradients(function, data.qkv)
    for actual, right in zip((output, *grads), (expected, *expected_grads), strict=True):
        assert_close(actual, right, 1e-6)


def test_autocast_casts_q_k_v_but_decides_in_float32():
    data = inputs(keys=70, dtype=torch.float32)
    one = 1 / (1 + math.exp(-1.0))  # logit 1: just above it, and above T's threshold, bfloat16 would round down
    mask = torch.where(data.mask_logits > 0, 1.001, -1.0)
    transferability = torch.where(data.transferability > 0.5, 0.501, 0.1)
    options = dict(mask_threshold=one, transfer_threshold=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        output = tmt_ext.masked_attention(*data.qkv, mask, transferability, **options)
    expected = tmt_ext.masked_attention(*(x.bfloat16() for x in data.qkv), mask, transferability, **options)
    rounded = tmt_ext.pack_mask(mask.bfloat16(), transferability.bfloat16(), **options)
    assert output.dtype == torch.bfloat16 and torch.equal(output, expected)
    assert not torch.equal(rounded.bits, tmt_ext.pack_mask(mask, transferability, **options).bits)


def test_autocast_gradients_come_back_in_float32():
    data = inputs(keys=70, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        _, grads = gradients(lambda *qkv: tmt_ext.masked_attention(*qkv, data.mask_logits), data.qkv)
    assert all(g.dtype == torch.float32 for g in grads)


def test_no_gradient_to_mask_and_transferability():
    data = inputs(keys=70, dtype=torch.float32)
    for tensor in data:
        tensor.requires_grad_()
    threshold = torch.tensor([0.5, 0.6], requires_grad=True)
    tmt_ext.masked_attention(*data, transfer_threshold=threshold).sum().backward()
    assert all(x.grad is not None for x in data.qkv)
    assert all(x.grad is None for x in (data.mask_logits, data.transferability, threshold))
    assert not tmt_ext.masked_attention(*(x.detach() for x in data.qkv), data.mask_logits).requires_grad


def test_only_the_gradients_asked_for():
    data = inputs(keys=70, dtype=torch.float32)
    data.key.requires_grad_()
    tmt_ext.masked_attention(*data.qkv, data.mask_logits).sum().backward()
    assert data.query.grad is None and data.key.grad.any()


def test_rule_none_alone_is_plain_attention():
    data = inputs(keys=70, dtype=torch.float32)
    plain = tmt_ext.packed_attention(*data.qkv)
    assert torch.equal(tmt_ext.masked_attention(*data.qkv, data.mask_logits, rule="none"), plain)
    assert torch.equal(tmt_ext.masked_attention(*data.qkv), plain)


GOOD = dict(query=(2, 3, 5, 8), key=(2, 3, 70, 8), value=(2, 3, 70, 8))


@pytest.mark.parametrize(
    "changes,message",
    [
        (dict(query=(2, 5, 8)), r"query must be \(B, heads, N, D\), got \(2, 5, 8\)"),
        (dict(query=torch.zeros(2, 3, 5, 8).int()), "query must be float32, .*, got int32"),
        (
            dict(query=(2, 3, 5, 300), key=(2, 3, 70, 300), value=(2, 3, 70, 300)),
            r"query must have D in 1\.\.256, got 300",
        ),
        (dict(query=(2, 3, 5, 0), key=(2, 3, 70, 0), value=(2, 3, 70, 0)), r"query must have D in 1\.\.256, got 0"),
        (dict(key=(2, 70, 8)), r"key must be \(B, heads, S, D\) .*, got \(2, 70, 8\)"),
        (dict(key=(1, 3, 70, 8)), r"key must be \(B, heads, S, D\) .*, got \(1, 3, 70, 8\)"),
        (dict(key=(2, 3, 70, 9)), r"key must be \(B, heads, S, D\) .*, got \(2, 3, 70, 9\)"),
        (dict(value=(2, 2, 70, 8)), r"value must be \(B, heads, S, D\) .*, got \(2, 2, 70, 8\)"),
        (dict(value=(2, 3, 71, 8)), r"value must have the S of key \(70\), got 71"),
        (dict(key=torch.zeros(2, 3, 70, 8).double()), r"key must have the dtype of query \(float32\), got float64"),
        (dict(value=torch.zeros(2, 3, 70, 8).half()), r"value must have the dtype of query \(float32\), got float16"),
        (
            dict(bits=torch.zeros(2, 5, 3).long()),
            r"bits must be \(B, N, .*\) = \(2, 5, 2\), got \(2, 5, 3\)",
        ),
        (dict(bits=torch.zeros(2, 5, 2).int()), "bits must be int64, as pack_mask makes them, got int32"),
    ],
)
def test_refuses(changes, message):
    given = {k: torch.zeros(v) if isinstance(v, tuple) else v for k, v in {**GOOD, **changes}.items()}
    with pytest.raises(RuntimeError, match=f"packed_attention: {message}") as error:
        tmt_ext.packed_attention(**given)
    assert "\n" not in str(error.value).strip()


def test_refuses_a_mask_of_other_queries():
    query, key = torch.zeros(2, 3, 5, 8), torch.zeros(2, 3, 70, 8)
    with pytest.raises(RuntimeError, match=r"packed_attention: bits must be .* = \(2, 5, 2\), got \(2, 4, 2\)"):
        tmt_ext.masked_attention(query, key, key, torch.zeros(2, 4, 70))


@pytest.mark.parametrize("options,message", [(dict(rule="no"), "rule"), (dict(mask_threshold=2.0), "mask_threshold")])
def test_refuses_values_even_where_they_do_not_matter(options, message):
    query, key = torch.zeros(2, 3, 5, 8), torch.zeros(2, 3, 70, 8)
    with pytest.raises(ValueError, match=message):
        tmt_ext.masked_attention(query, key, key, torch.zeros(2, 5, 70), **options)
