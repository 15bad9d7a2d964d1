"""What the CUDA kernels must do, checked against the float64 reference: on a GPU, and emulated on the CPU.

`ops` is the namespace in which the kernels are registered, `device` where they take their tensors.
"""

import math
from types import SimpleNamespace

import torch
from attention_inputs import inputs, thresholds
from attention_layouts import columns_apart, one_image, rows_first
from helpers import assert_close, assert_twice
from superpixel_cases import (
    KAPPA,
    assert_labels,
    features,
    oracle,
    own_cells,
    piecewise_constant,
    tied_features,
)

import tmt_ext
from tmt_ext import reference
from tmt_ext._reference_attention import attention, unpack_bits

# One rounding to the dtype (of inputs' gradients, too), and sums in float32.
LIMITS = {torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 1e-3}
DTYPES = list(LIMITS)

# (B, C, H, W), cell: tiles cut and several to a cell, channels in one chunk and several, one region, one pixel.
SUPERPIXEL_CASES = [
    ((2, 5, 9, 10), 4),
    ((1, 130, 8, 13), 8),
    ((1, 3, 40, 18), 16),
    ((2, 33, 5, 4), 1),
    ((1, 7, 3, 20), 6),
    ((1, 9, 5, 4), 1000),
    ((1, 1, 1, 1), 3),
]
# B, heads, N, S, D: every cut of the head dimension, rows and keys in one tile and several, keys in several splits.
ATTENTION_CASES = [
    (2, 2, 5, 70, 8),
    (1, 1, 17, 300, 32),
    (1, 2, 9, 64, 33),
    (2, 1, 65, 90, 64),
    (1, 1, 7, 130, 100),
    (1, 1, 18, 66, 256),
    (1, 3, 1, 1, 1),
]


def check_superpixel(ops, device, shape, cell, dtype=torch.float32, iterations=3, kappa=KAPPA, x=None):
    """Results and gradients, from both outputs and from each alone."""
    x = features(shape, dtype) if x is None else x
    options = dict(iterations=iterations, kappa=kappa)
    y = x.double().requires_grad_()
    expected = reference.superpixel(y, cell, **options)
    regions, assignment, labels, history, masses = ops.superpixel(x.to(device), cell, iterations, kappa)
    limit = LIMITS[x.dtype]
    assert regions.dtype == assignment.dtype == x.dtype and history.dtype == torch.float32
    assert_close(regions.cpu(), expected.region_features, limit, "region_features")
    assert_close(assignment.cpu(), expected.assignment, limit, "assignment")
    assert_labels(labels.cpu(), expected)
    assert masses.dtype == torch.float32 and masses.shape == history[:, 1:, :, 0].shape
    pixels = torch.full(masses.shape[:2], float(x.shape[2] * x.shape[3]))
    assert_close(masses.cpu().sum(-1), pixels, 1e-6, "masses")  # every pixel gives mass 1 away
    assert torch.equal(history[:, -1].mT.reshape(regions.shape).to(x.dtype), regions)

    alone = ops.superpixel(x.to(device), cell, iterations, kappa, False)
    assert all(torch.equal(a, b) for a, b in zip(alone[:3], (regions, assignment, labels), strict=True))
    assert [t.shape for t in alone[3:]] == [(0,), (0,)]

    weights = [torch.randn(r.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype) for r in expected[:2]]
    for given in ((0, 1), (0,), (1,)):
        outputs = [expected[i] for i in given]
        (right,) = torch.autograd.grad(outputs, y, [weights[i].double() for i in given], retain_graph=True)
        passed = [weights[i].to(device) if i in given else None for i in range(2)]
        grad = ops.superpixel_backward(*passed, x.to(device), history, masses, cell, iterations, kappa)
        assert grad.dtype == x.dtype
        assert_close(grad.cpu(), right, limit, f"gradient from {given}")


def check_superpixel_extremes(ops, device):
    for scale in (1e30, 1e-8):
        x = features((1, 8, 12, 20), torch.float32, scale=scale)
        regions, assignment = ops.superpixel(x.to(device), 4, 6, KAPPA)[:2]
        assert_close(regions.cpu(), oracle(x, 4).region_features)
        assert_close(assignment.cpu(), oracle(x, 4).assignment)
    x = features((1, 8, 12, 20), torch.float32)
    x[:, :, 3:9, 5:12] = 0  # zero vectors
    check_superpixel(ops, device, x.shape, 4, x=x)
    x = torch.zeros(1, 2, 1, 6)  # the middle cell's mean is far from each of its pixels: a region without mass
    x[0, 0, 0, :3], x[0, 1, 0, 3:] = 1, 1
    regions = ops.superpixel(x.to(device), 2, 2, 1000.0)[0]
    assert regions[0, :, 0, 1].tolist() == [0, 0] and regions.isfinite().all()
    x = features((1, 16, 20, 24), torch.float32)
    assert all(r.isfinite().all() for r in ops.superpixel(x.to(device), 4, 6, 1000.0))


def check_superpixel_ties(ops, device):
    """Labels where regions are alike but for rounding: a pixel's own cell, else the lowest neighbour; in any dtype."""
    for dtype in DTYPES:
        for name, x in tied_features().items():
            labels = ops.superpixel(x.to(device, dtype), 4, 6, KAPPA, False)[2]
            assert torch.equal(labels[0].cpu(), own_cells(*x.shape[2:], 4)), f"{name} {dtype}"
        x = piecewise_constant().to(dtype)
        labels = ops.superpixel(x.to(device), 4, 6, KAPPA, False)[2]
        assert torch.equal(labels.cpu(), oracle(x, 4).labels), f"piecewise constant {dtype}"


def check_attention(ops, device, case, dtype=torch.float32, masked=True):
    """Result, logarithm of the sum and gradients."""
    data = inputs(*case, dtype=dtype)
    keys, limit = case[3], LIMITS[dtype]
    threshold = thresholds(data.transferability)
    bits = reference.pack_mask(**data.mask, transfer_threshold=threshold).bits if masked else None
    allowed = unpack_bits(bits, keys) if masked else None
    qkv = [t.double().requires_grad_() for t in data.qkv]
    expected = attention(*qkv, allowed)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    right = torch.autograd.grad(expected, qkv, weight.double())

    on_device = [t.to(device) for t in data.qkv]
    bits = bits.to(device) if masked else None
    output, lse, plan = ops.packed_attention(*on_device, bits)
    assert output.dtype == dtype and lse.dtype == torch.float32
    assert_close(output.cpu(), expected, limit, "output")
    scores = qkv[0] @ qkv[1].mT / math.sqrt(case[4])
    if masked:
        scores = scores.masked_fill(~allowed[:, None], -math.inf)
    # Tensor cores sum the weights that they multiply, which are rounded to the dtype.
    assert_close(lse.cpu(), scores.logsumexp(-1), 1e-5 if dtype == torch.float32 else limit / 8, "lse")
    grads = ops.packed_attention_backward(weight.to(device), *on_device, output, lse, plan, bits)
    for name, grad, gradient in zip(("query", "key", "value"), grads, right, strict=True):
        assert grad.dtype == dtype
        if keys == 1 and name != "value":  # exactly 0, but for the rounding of two equal sums in different orders
            assert grad.abs().max() < 1e-5, f"gradient of {name}"
            continue
        # The output that delta is made of was rounded to the dtype, and a difference of nearly equal numbers follows.
        assert_close(grad.cpu(), gradient, limit if dtype == torch.float32 else 4 * limit, f"gradient of {name}")


def check_attention_extremes(ops, device):
    """Scores to 4e4 and to 1e-40; one NaN stays in its row."""
    for scale in (100.0, 1e-20):
        qkv = inputs(1, 2, 9, 150, 32, dtype=torch.float32, scale=scale).qkv
        output, lse, plan = ops.packed_attention(*(t.to(device) for t in qkv), None)
        assert_twice(output.cpu(), attention(*qkv, None), attention(*(t.double() for t in qkv), None), "output")
        grads = ops.packed_attention_backward(output, *(t.to(device) for t in qkv), output, lse, plan, None)
        assert all(g.isfinite().all() for g in grads)
    qkv = inputs(1, 2, 9, 150, 32, dtype=torch.float32).qkv
    qkv[0][0, 0, 3, 5] = math.nan
    broken = ops.packed_attention(*(t.to(device) for t in qkv), None)[0].isnan().any(-1)
    assert broken[0, 0].tolist() == [n == 3 for n in range(9)] and broken.sum() == 1


def check_attention_weights(ops, device, dtype):
    """Backward, no weight is above 1, however lse was rounded: here it is 50 too small, and all weights become 1."""
    data = inputs(1, 1, 9, 150, 32, dtype=dtype)
    bits = reference.pack_mask(**data.mask, transfer_threshold=0.7).bits.to(device)
    qkv = [t.to(device) for t in data.qkv]
    output, lse, plan = ops.packed_attention(*qkv, bits)
    weight = torch.ones_like(output)
    grad_value = ops.packed_attention_backward(weight, *qkv, output, lse - 50, plan, bits)[2]
    attended = unpack_bits(bits.cpu(), 150).sum(1)  # how many queries attend each key
    assert torch.equal(grad_value[0, 0].cpu().float(), attended[0, :, None].expand(150, 32).float())


def check_attention_nan(ops, device, dtype, masked, broken):
    """A NaN in one query or key is in every result that it has a part in, as in the reference, and in no other head."""
    data = inputs(1, 2, 20, 150, 32, dtype=dtype)
    bits = reference.pack_mask(**data.mask, transfer_threshold=0.7).bits if masked else None
    allowed = unpack_bits(bits, 150)[0] if masked else torch.ones(20, 150, dtype=torch.bool)
    rows = torch.arange(20) == 3 if broken == "query" else allowed[:, 7]
    (data.query if broken == "query" else data.key)[0, 0, 3 if broken == "query" else 7, 5] = math.nan
    oracle = [t.double().requires_grad_() for t in data.qkv]
    expected = attention(*oracle, allowed[None])
    expected = [expected, *torch.autograd.grad(expected.sum(), oracle)]
    on_device = [t.to(device) for t in data.qkv]
    weight = torch.ones_like(on_device[0])
    output, lse, *grads = attend_and_differentiate(ops, *on_device, bits.to(device) if masked else None, weight)
    assert torch.equal(lse[0, 0].isnan().cpu(), rows) and torch.equal(output.isnan().cpu(), expected[0].isnan())
    certain = [rows, rows, *[allowed[rows].any(0)] * 2]
    names = ("output", "gradient of query", "gradient of key", "gradient of value")
    for name, result, right, broken_rows in zip(names, (output, *grads), expected, certain, strict=True):
        found = result.isnan().cpu()
        assert found[0, 0, broken_rows].all(), f"{name} hides a NaN"
        assert not (found & ~right.isnan()).any() and not found[0, 1].any(), f"{name} spreads a NaN"


def check_attention_empty(ops, device):
    for shape in ((0, 2, 3, 70, 8), (2, 0, 3, 70, 8), (2, 2, 0, 70, 8), (2, 2, 3, 0, 8)):
        q, k, v = (t.float().to(device) for t in inputs(*shape).qkv)
        output, lse, plan = ops.packed_attention(q, k, v, None)
        assert output.shape == q.shape and not output.any() or shape[3]
        assert lse.shape == q.shape[:3]
        grads = ops.packed_attention_backward(output, q, k, v, output, lse, plan, None)
        assert [g.shape for g in grads] == [q.shape, k.shape, v.shape] and not any(g.any() for g in grads)


def check_rows_without_any_bit(ops, device):
    data = inputs(1, 2, 7, 100, 32, dtype=torch.float32)
    bits = reference.pack_mask(**data.mask, transfer_threshold=0.7).bits
    bits[:, 2] = 0
    qkv = [t.to(device) for t in data.qkv]
    output, lse, plan = ops.packed_attention(*qkv, bits.to(device))
    assert not output[:, :, 2].any() and (lse[:, :, 2] == -math.inf).all() and lse[:, :, 3].isfinite().all()
    grads = ops.packed_attention_backward(torch.ones_like(output), *qkv, output, lse, plan, bits.to(device))
    assert all(g.isfinite().all() for g in grads) and not grads[0][:, :, 2].any()


def check_pack_mask(ops, device, rule, fallback, keys, dtype=torch.float32):
    """Bit for bit, with a mask alone, transferability alone, and both; rows that fall back in every way."""
    data = inputs(2, 1, 6, keys, 8)
    mask, transferability = data.mask_logits.to(dtype), data.transferability.to(dtype)
    transferability[1] = 0.9
    threshold = torch.tensor([0.4, 0.3])
    numbers = tmt_ext.Rule[rule], tmt_ext.Fallback[fallback]
    options = dict(mask_threshold=0.4, rule=rule, fallback=fallback)
    for m, t in ((mask, transferability), (mask, None), (None, transferability)):
        if t is None and rule == "none":
            continue
        expected = reference.pack_mask(m, t, transfer_threshold=None if t is None else threshold, queries=6, **options)
        on_device = [None if x is None else x.to(device) for x in (m, t, None if t is None else threshold)]
        bits, allowed = ops.pack_mask(*on_device, math.log(0.4 / 0.6), *numbers, 6)
        assert torch.equal(bits.cpu(), expected.bits) and torch.equal(allowed.cpu(), expected.allowed)


def check_pack_mask_empty(ops, device):
    for shape in ((0, 3, 70), (2, 0, 70), (2, 3, 0)):
        bits, allowed = ops.pack_mask(torch.zeros(shape, device=device), None, None, 0.0, 1, 0, shape[1])
        assert bits.shape == (*shape[:2], -(-shape[2] // 64)) and not allowed.any()


def check_non_contiguous(ops, device):
    x = features((2, 5, 12, 9), torch.float32).to(device)
    for strided in (x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        for a, b in zip(ops.superpixel(strided, 4, 2, KAPPA), ops.superpixel(x, 4, 2, KAPPA), strict=True):
            assert torch.equal(a, b)


def attend_and_differentiate(ops, query, key, value, bits, weight):
    """output, lse and the gradients of query, key and value."""
    output, lse, plan = ops.packed_attention(query, key, value, bits)
    return output, lse, *ops.packed_attention_backward(weight, query, key, value, output, lse, plan, bits)


def check_attention_layout(ops, device, layout, dtype):
    """Strides change neither a bit of the results nor, where there are no gaps, their order in memory."""
    data = inputs(3, 2, 21, 150, 32, dtype=dtype)
    bits = reference.pack_mask(**data.mask, transfer_threshold=0.7).bits.to(device)
    weight = inputs(3, 2, 21, 1, 32, dtype=dtype, seed=1).query.to(device)
    strided = [layout(t.to(device)) for t in data.qkv]
    dense = [t.clone(memory_format=torch.contiguous_format) for t in strided]
    for mask in (bits, None):
        expected = attend_and_differentiate(ops, *dense, mask, layout(weight).contiguous())
        actual = attend_and_differentiate(ops, *strided, mask, layout(weight))
        assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
        assert actual[1].is_contiguous()
        for result, like in zip((actual[0], *actual[2:]), (strided[0], *strided), strict=True):
            assert_in_order(result, like)


def check_value_strides(ops, device, dtype):
    """Every tensor is read with its own strides."""
    query, key, value = (t.to(device) for t in inputs(2, 2, 9, 70, 32, dtype=dtype).qkv)
    expected = ops.packed_attention(query, key, value, None)
    assert torch.equal(ops.packed_attention(query, key, rows_first(value), None)[0], expected[0])


def assert_in_order(result, like):
    """Without gaps, rows contiguous, batch, heads and rows in memory as they are in `like`."""
    order = sorted(range(3), key=lambda d: -like.stride(d))
    assert result.permute(*order, 3).is_contiguous()


def check_attention_layout_empty(ops, device, dtype):
    for shape in ((0, 2, 3, 70, 8), (2, 0, 3, 70, 8), (2, 2, 0, 70, 8), (2, 2, 3, 0, 8)):
        for layout in (rows_first, one_image, columns_apart):
            q, k, v = (layout(t.to(device)) for t in inputs(*shape, dtype=dtype).qkv)
            output, _, *grads = attend_and_differentiate(ops, q, k, v, None, torch.ones_like(q))
            assert [g.shape for g in (output, *grads)] == [q.shape, q.shape, k.shape, v.shape]
            assert not any(g.any() for g in grads)


def everything(ops, device):
    """A result of every kernel, for comparing runs bit by bit."""
    x = features((2, 5, 9, 10), torch.float32).to(device)
    outputs = ops.superpixel(x, 4, 2, KAPPA)
    grad = ops.superpixel_backward(outputs[0], outputs[1], x, *outputs[3:], 4, 2, KAPPA)
    data = inputs(1, 2, 20, 150, 40, dtype=torch.float32)
    qkv = [t.to(device) for t in data.qkv]
    packed = ops.pack_mask(data.mask_logits.to(device), None, None, 0.0, 1, 0, 20)
    attended = ops.packed_attention(*qkv, packed[0])
    grads = ops.packed_attention_backward(attended[0], *qkv, *attended, packed[0])
    return [t.cpu() for t in (*outputs, grad, *packed, *attended, *grads)]


# ---- half precision against float32, at any size --------------------------------------------------------------------


def check_superpixel_against_full(ops, device, shape, cell, dtype=torch.bfloat16, iterations=6):
    """Results and gradient of one rounded input in its dtype and in float32: by two kernels that share no product."""
    x = features(shape, dtype).to(device)
    names = ("region_features", "assignment", "labels", "gradient")
    half, full = (
        dict(zip(names, superpixel_and_gradient(ops, cell, iterations)(y), strict=True)) for y in (x, x.float())
    )
    for name in ("region_features", "assignment", "gradient"):
        assert half[name].dtype == dtype and full[name].dtype == torch.float32
        assert_close(half[name], full[name], LIMITS[dtype], name)
    assert_labels(half["labels"], SimpleNamespace(**full))


def superpixel_and_gradient(ops, cell, iterations):
    """x -> (region_features, assignment, labels, gradient of x)."""

    def run(x):
        regions, assignment, labels, *saved = ops.superpixel(x, cell, iterations, KAPPA)
        grad = ops.superpixel_backward(regions, assignment, x, *saved, cell, iterations, KAPPA)
        return regions, assignment, labels, grad

    return run


def check_attention_against_full(ops, device, case, dtype=torch.bfloat16):
    """Output, logarithm of the sum and gradients of one rounded input in its dtype and in float32."""
    data = inputs(*case, dtype=dtype)
    mask, transferability = (t.to(device) for t in data.mask.values())
    numbers = tmt_ext.Rule.uncertain, tmt_ext.Fallback.all
    bits, _ = ops.pack_mask(mask, transferability, thresholds(transferability), 0.0, *numbers, case[2])
    run = attention_and_gradients(ops, bits)
    half, full = (run(*(t.to(device, d) for t in data.qkv)) for d in (dtype, torch.float32))
    assert_close(half[0], full[0], LIMITS[dtype], "output")
    assert_close(half[1], full[1], LIMITS[dtype] / 8, "lse")  # of the weights as they are summed: rounded
    for name, grad, expected in zip(("query", "key", "value"), half[2:], full[2:], strict=True):
        assert grad.dtype == dtype
        assert_close(grad, expected, 4 * LIMITS[dtype], f"gradient of {name}")


def attention_and_gradients(ops, bits):
    """query, key, value -> (output, lse, their gradients)."""

    def run(query, key, value):
        output, *kept = ops.packed_attention(query, key, value, bits)
        return output, kept[0], *ops.packed_attention_backward(output, query, key, value, output, *kept, bits)

    return run


# ---- CUDA graphs ----------------------------------------------------------------------------------------------------


def check_captured(capture, run, first, *others):
    """Captured once and replayed on other tensors, `run` gives what an eager call gives, bit by bit.

    capture: (run, tensors) -> (results, replay); replay() makes the results anew from what the tensors hold by then.
    """
    given = [t.clone() for t in first]
    results, replay = capture(run, given)
    for tensors in (*others, first):
        for old, new in zip(given, tensors, strict=True):
            old.copy_(new)
        replay()
        assert all(torch.equal(a, b) for a, b in zip(results, run(*(t.clone() for t in tensors)), strict=True))


def check_superpixel_captured(ops, device, capture, shape, cell, dtype=torch.bfloat16):
    images = [[features(shape, dtype, seed=seed).to(device)] for seed in range(3)]
    check_captured(capture, superpixel_and_gradient(ops, cell, 6), *images)


def check_attention_captured(ops, device, capture, case, dtype=torch.bfloat16):
    data = [inputs(*case, dtype=dtype, seed=seed) for seed in range(2)]
    bits = reference.pack_mask(**data[0].mask, transfer_threshold=0.7).bits.to(device)
    check_captured(capture, attention_and_gradients(ops, bits), *([t.to(device) for t in d.qkv] for d in data))
