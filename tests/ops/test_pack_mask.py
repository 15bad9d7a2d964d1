"""tmt_ext.pack_mask on the CPU against its reference, and the reference against explicit loops."""

import math

import numpy as np
import pytest
import torch
from attention_inputs import CHOICES, FALLBACKS, RULES, inputs, thresholds

import tmt_ext
from tmt_ext import reference

SIZES = [1, 5, 63, 64, 65, 128, 150, 257]


def loops(mask, transferability, mask_threshold, transfer_threshold, rule, fallback):
    """Eq. 13 key by key, in numpy float32. (B, N, S), (B, S) or None -> bool (B, N, S), int (B, N)."""
    batch, queries, keys = mask.shape
    limit = np.float32(math.log(mask_threshold / (1 - mask_threshold)))
    allowed, count = np.zeros((batch, queries, keys), bool), np.zeros((batch, queries), int)
    for b, n in np.ndindex(batch, queries):
        passed = [transferability is None or transferability[b, j] <= transfer_threshold[b] for j in range(keys)]
        for j in range(keys):
            m = np.float32(mask[b, n, j])
            by_mask = {"none": True, "uncertain": m <= limit, "foreground": m >= limit}[rule]
            allowed[b, n, j] = by_mask and passed[j]
        count[b, n] = allowed[b, n].sum()
        if count[b, n] == 0:
            allowed[b, n] = passed if fallback == "transfer" and any(passed) else True
    return allowed, count


def assert_same(mask_logits, transferability, **options):
    """Kernel and reference agree bit by bit; returns the bool form."""
    packed = tmt_ext.pack_mask(mask_logits, transferability, **options)
    expected = reference.pack_mask(mask_logits, transferability, **options)
    assert packed.bits.dtype == torch.int64 and packed.allowed.dtype == torch.int32
    assert torch.equal(packed.bits, expected.bits)
    assert torch.equal(packed.allowed, expected.allowed)
    return reference.allowed_mask(mask_logits, transferability, **options)[0]


@pytest.mark.parametrize("rule,fallback", CHOICES)
def test_reference_is_the_definition(rule, fallback):
    data = inputs(queries=6, keys=9)
    transferability = data.transferability.clone()
    transferability[1] = 0.9  # above its threshold everywhere: even T alone allows nothing
    threshold = torch.tensor([0.5, 0.5])
    options = dict(mask_threshold=0.3, transfer_threshold=threshold, rule=rule, fallback=fallback)
    allowed, count = reference.allowed_mask(data.mask_logits, transferability, **options)
    expected = loops(data.mask_logits.numpy(), transferability.numpy(), 0.3, threshold.numpy(), rule, fallback)
    assert np.array_equal(allowed.numpy(), expected[0]) and np.array_equal(count.numpy(), expected[1])


@pytest.mark.parametrize("keys", SIZES)
def test_bit_layout(keys):
    allowed = torch.rand(2, 3, keys, generator=torch.Generator().manual_seed(keys)) < 0.5
    allowed[..., 0] = True
    bits = tmt_ext.pack_mask(torch.where(allowed, -1.0, 1.0)).bits
    assert bits.shape == (2, 3, -(-keys // 64))
    for b, n in np.ndindex(2, 3):
        words = [0] * bits.shape[2]
        for j in range(keys):
            words[j // 64] |= int(allowed[b, n, j]) << (j % 64)
        assert [w % (1 << 64) for w in bits[b, n].tolist()] == words


@pytest.mark.parametrize("keys", SIZES)
@pytest.mark.parametrize("rule,fallback", CHOICES)
def test_equals_reference(rule, fallback, keys):
    data = inputs(keys=keys)
    options = dict(transfer_threshold=thresholds(data.transferability), rule=rule, fallback=fallback)
    assert_same(data.mask_logits, data.transferability, mask_threshold=0.4, **options)


@pytest.mark.parametrize("fallback", FALLBACKS)
@pytest.mark.parametrize("rule", RULES)
def test_either_alone(rule, fallback):
    data = inputs()
    if rule != "none":
        assert_same(data.mask_logits, None, rule=rule, fallback=fallback)
    assert_same(None, data.transferability, transfer_threshold=0.3, rule=rule, fallback=fallback, queries=4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rule", ["uncertain", "foreground"])
def test_every_dtype(dtype, rule):
    data = inputs(keys=100)
    mask, transferability = data.mask_logits.to(dtype), data.transferability.to(dtype)
    assert_same(mask, transferability, transfer_threshold=thresholds(transferability), rule=rule)


def neighbours(value, dtype):
    """The value, and the next numbers of its dtype below and above."""
    value = torch.tensor(value, dtype=dtype)
    infinite = torch.tensor(math.inf, dtype=dtype)
    return torch.stack([torch.nextafter(value, -infinite), value, torch.nextafter(value, infinite)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threshold", [0.5, 0.3, 0.73105858])
def test_ties_at_the_mask_threshold(threshold, dtype):
    limit = torch.tensor(math.log(threshold / (1 - threshold)), dtype=torch.float32)
    mask = neighbours(limit.item(), dtype).repeat(30)[None, None]  # (1, 1, 90)
    below = (mask.float() <= limit)[0, 0]
    assert below.any() and not below.all()
    for rule, expected in (("uncertain", below), ("foreground", (mask.float() >= limit)[0, 0])):
        allowed = assert_same(mask, None, mask_threshold=threshold, rule=rule)
        assert torch.equal(allowed[0, 0], expected)
    if threshold == 0.5:  # logit 0 is exact in every dtype: a tie passes both rules
        assert torch.equal(below, torch.tensor([True, True, False]).repeat(30))


def test_ties_at_the_transfer_threshold():
    transferability = neighbours(0.7, torch.float32).repeat(30)[None]  # (1, 90)
    allowed = assert_same(None, transferability, transfer_threshold=torch.tensor([0.7]), queries=1)
    assert torch.equal(allowed[0, 0], torch.tensor([True, True, False]).repeat(30))


@pytest.mark.parametrize("rule", ["uncertain", "foreground"])
@pytest.mark.parametrize("threshold", [0.0, 1.0, 0.5])
def test_infinite_and_nan_logits(rule, threshold):
    values = torch.tensor([-math.inf, -1e30, -0.0, 0.0, 1e-40, 1e30, math.inf, math.nan])
    mask = values.repeat(11)[None, None]  # (1, 1, 88)
    allowed = assert_same(mask, None, mask_threshold=threshold, rule=rule)[0, 0, : len(values)]
    limit = {0.0: -math.inf, 1.0: math.inf, 0.5: 0.0}[threshold]
    expected = values <= limit if rule == "uncertain" else values >= limit
    assert torch.equal(allowed, expected) and not allowed[-1]


def test_nan_transferability_is_not_allowed():
    transferability = torch.tensor([[0.1, math.nan, 0.9]])
    allowed = assert_same(None, transferability, transfer_threshold=1.0, queries=1)
    assert allowed.tolist() == [[[True, False, True]]]


@pytest.mark.parametrize("fallback,expected", [("all", [True] * 3), ("transfer", [True, False, True])])
def test_fallback(fallback, expected):
    transferability = torch.tensor([[0.1, 0.9, 0.2], [0.9, 0.9, 0.9]])
    mask = torch.full((2, 1, 3), 5.0)
    options = dict(transfer_threshold=0.5, fallback=fallback)
    allowed = assert_same(mask, transferability, **options)
    assert allowed[0, 0].tolist() == expected
    assert allowed[1, 0].tolist() == [True] * 3  # nothing passes T either: everywhere
    assert tmt_ext.pack_mask(mask, transferability, **options).allowed.tolist() == [[0], [0]]


@pytest.mark.parametrize("shape", [(0, 3, 70), (2, 0, 70), (2, 3, 0)])
def test_empty(shape):
    batch, queries, keys = shape
    assert_same(torch.zeros(shape), torch.zeros(batch, keys), transfer_threshold=0.5)
    assert_same(None, torch.zeros(batch, keys), transfer_threshold=0.5, queries=queries)


def test_non_contiguous():
    data = inputs(keys=90)
    mask = data.mask_logits.transpose(1, 2).contiguous().transpose(1, 2)
    transferability = data.transferability.t().contiguous().t()
    threshold = thresholds(data.transferability).repeat_interleave(2)[::2]
    packed = tmt_ext.pack_mask(mask, transferability, transfer_threshold=threshold)
    expected = tmt_ext.pack_mask(**data.mask, transfer_threshold=threshold.contiguous())
    assert torch.equal(packed.bits, expected.bits) and torch.equal(packed.allowed, expected.allowed)


@pytest.mark.parametrize("rule,fallback", CHOICES)
def test_opcheck(rule, fallback):
    data = inputs(keys=70)
    numbers = tmt_ext.Rule[rule], tmt_ext.Fallback[fallback]
    arguments = (data.mask_logits, data.transferability, thresholds(data.transferability), 0.25, *numbers, 7)
    torch.library.opcheck(torch.ops.tmt.pack_mask.default, arguments)


def pack(**changes):
    """The operator itself on good arguments, but for `changes` (a tuple is the shape of a tensor of zeros)."""
    given = dict(mask=(2, 3, 70), transferability=(2, 70), threshold=(2,), logit=0.0, rule=1, fallback=0, queries=3)
    given |= changes
    return torch.ops.tmt.pack_mask(*(torch.zeros(x) if isinstance(x, tuple) else x for x in given.values()))


@pytest.mark.parametrize(
    "changes,message",
    [
        (dict(mask=(2, 70)), r"mask_logits must be \(B, N, S\), got \(2, 70\)"),
        (dict(mask=torch.zeros(2, 3, 70).int()), "mask_logits must be floating-point, got int32"),
        (dict(transferability=(2, 71)), r"transferability must be \(B, S\) = \(2, 70\), got \(2, 71\)"),
        (dict(transferability=(3, 70)), r"transferability must be \(B, S\) = \(2, 70\), got \(3, 70\)"),
        (dict(transferability=torch.zeros(2, 70).long()), "transferability must be floating-point, got int64"),
        (dict(threshold=(3,)), r"transfer_threshold must be \(B,\) = \(2,\), got \(3\)"),
        (dict(threshold=torch.zeros(2).double()), "transfer_threshold must be float32, got float64"),
        (dict(threshold=torch.tensor([0.5, 1.5])), r"transfer_threshold must be in \[0, 1\], got 1.5"),
        (
            dict(threshold=torch.tensor([0.5, math.nan])),
            r"transfer_threshold must be in \[0, 1\], got nan; .* where transferability holds one",
        ),
        (dict(threshold=None), "transfer_threshold must be given with transferability"),
        (dict(transferability=None), "transferability must be given with transfer_threshold"),
        (dict(queries=4), r"queries must be the N of mask_logits \(3\), got 4"),
        (dict(mask=None, queries=-1), "queries must be at least 0, got -1"),
        (dict(rule=3), "rule must be 0 .*, got 3"),
        (dict(fallback=2), "fallback must be 0 .*, got 2"),
        (dict(logit=math.nan), "mask_logit_threshold must be a number, got NaN"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(RuntimeError, match=f"pack_mask: {message}") as error:
        pack(**changes)
    assert "\n" not in str(error.value).strip()


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(mask_threshold=1.5), "mask_threshold must be in"),
        (dict(mask_threshold=math.nan), "mask_threshold must be in"),
        (dict(transfer_threshold=-0.1), "transfer_threshold must be in"),
        (dict(transfer_threshold=None), "transfer_threshold"),
        (dict(rule="background"), "rule must be one of .*'background'"),
        (dict(fallback="nothing"), "fallback must be one of .*'nothing'"),
    ],
)
def test_refuses_values(options, message):
    with pytest.raises(ValueError, match=message):
        tmt_ext.pack_mask(torch.zeros(1, 1, 4), torch.zeros(1, 4), **{"transfer_threshold": 0.5, **options})


def test_refuses_nothing_to_decide():
    with pytest.raises(ValueError, match="pack_mask: .* both None"):
        tmt_ext.pack_mask(queries=3)
    with pytest.raises(ValueError, match="pack_mask: .*queries"):
        tmt_ext.pack_mask(None, torch.zeros(1, 4), transfer_threshold=0.5)
