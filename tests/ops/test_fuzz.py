"""Hundreds of drawn cases of every operator on the CPU, against the float64 reference."""

import math

import deformable_cases
import torch
from fuzz import CASES, DTYPES, STRIDES, numbers, profile
from hypothesis import given
from hypothesis import strategies as st
from superpixel_cases import assert_labels
from test_pack_predicted_mask import undecided

import tmt_ext
from tmt_ext import reference
from tmt_ext._reference_superpixel import NORM_EPS

RULES = ("uncertain", "foreground")
FALLBACKS = st.sampled_from(["all", "transfer"])
THRESHOLDS = st.sampled_from([0.0, 0.03, 0.5, 0.7310585786300049, 0.9, 1.0])
TRANSFER_THRESHOLDS = st.sampled_from([None, 0.0, 0.3, 0.7, 1.0])


@profile(CASES)
@given(
    numbers(scales=(1.0, 1e-4, 100.0)),
    st.tuples(st.integers(1, 3), st.integers(1, 140), st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([1, 2, 3, 4, 5, 8, 16, 30]),
    st.integers(1, 4),
    st.sampled_from([1.0, 10.0, 1 / 0.07, 40.0]),
)
def test_superpixel(draw, shape, cell, iterations, kappa):
    if draw.dtype == torch.float16:
        draw = draw._replace(scale=1.0)  # gradients grow as features shrink, out of its range
    x = draw.normal(*shape)
    options = dict(iterations=iterations, kappa=kappa)
    steepest = kappa * iterations / x.double().norm(dim=1).clamp_min(NORM_EPS).min()
    draw.compare(
        lambda y: tmt_ext.superpixel(y, cell, **options),
        lambda y: reference.superpixel(y, cell, **options),
        [x],
        ("region_features", "assignment", "gradient"),
        (0, 0, steepest * x[:, 0].numel() ** 0.5),
        torch.promote_types(x.dtype, torch.float32),  # as under autocast
    )
    with torch.no_grad():
        assert_labels(tmt_ext.superpixel(x, cell, **options).labels, reference.superpixel(x.double(), cell, **options))


def transferability(draw, *shape):
    """(B, S) in [0, 1], some values on the thresholds, one NaN."""
    return draw.normal(*shape, stream=7, first=(0.3, math.nan, 0.7), squash=True)


@profile(CASES)
@given(
    numbers(),
    st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 200)),
    st.sampled_from(["none", *RULES]),
    FALLBACKS,
    THRESHOLDS,
    TRANSFER_THRESHOLDS,
    st.booleans(),
)
def test_pack_mask(draw, shape, rule, fallback, mask_threshold, transfer_threshold, with_mask):
    batch, queries, keys = shape
    mask = draw.normal(*shape, first=(0.0, -0.0, math.inf, math.nan)) if with_mask else None
    if transfer_threshold is None and (mask is None or rule == "none"):
        transfer_threshold = 0.5
    given_t = None if transfer_threshold is None else transferability(draw, batch, keys)
    options = dict(mask_threshold=mask_threshold, transfer_threshold=transfer_threshold, rule=rule, fallback=fallback)
    options |= {} if with_mask else {"queries": queries}
    packed, expected = tmt_ext.pack_mask(mask, given_t, **options), reference.pack_mask(mask, given_t, **options)
    assert torch.equal(packed.bits, expected.bits) and torch.equal(packed.allowed, expected.allowed)


@profile(CASES)
@given(
    numbers(dtypes=DTYPES[:2], scales=(1.0, 0.1)),
    st.tuples(st.integers(0, 3), st.integers(0, 13), st.integers(1, 40), st.integers(0, 300)),
    st.sampled_from(RULES),
    FALLBACKS,
    THRESHOLDS,
    TRANSFER_THRESHOLDS,
    st.sampled_from(DTYPES),
)
def test_pack_predicted_mask(draw, shape, rule, fallback, mask_threshold, transfer_threshold, dtype):
    batch, queries, channels, keys = shape
    embeddings = draw._replace(dtype=dtype).normal(batch, queries, channels)
    features = draw._replace(dtype=dtype).normal(batch, channels, keys, stream=1)
    given_t = None if transfer_threshold is None else transferability(draw, batch, keys)
    options = dict(mask_threshold=mask_threshold, transfer_threshold=transfer_threshold, rule=rule, fallback=fallback)
    packed = tmt_ext.pack_predicted_mask(embeddings, features, given_t, **options)
    expected, count = reference.allowed_mask(embeddings.double() @ features.double(), given_t, **options)
    limit = math.log(mask_threshold / (1 - mask_threshold)) if 0 < mask_threshold < 1 else math.inf
    doubtful = undecided(embeddings, features, limit)  # whatever rounding decides
    sure = ~doubtful & (doubtful.sum(-1) < count.clamp_min(1))[..., None]  # and whether a row falls back
    assert torch.equal(reference.unpack_bits(packed.bits, keys) & sure, expected & sure)
    assert ((packed.allowed - count).abs() <= doubtful.sum(-1)).all()


@profile(CASES)
@given(
    numbers(scales=(1.0, 1e-3, 4.0)),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 30), st.integers(1, 300)),
    st.sampled_from([1, 3, 8, 16, 20, 32, 33, 64, 100]),
    st.sampled_from([None, "none", *RULES]),
    FALLBACKS,
    THRESHOLDS,
    TRANSFER_THRESHOLDS,
    STRIDES,
)
def test_masked_attention(draw, shape, dim, rule, fallback, mask_threshold, transfer_threshold, mask_strides):
    batch, heads, queries, keys = shape
    qkv = [draw.normal(batch, heads, n, dim, stream=i) for i, n in enumerate((queries, keys, keys))]
    mask = draw._replace(strides=mask_strides).normal(batch, queries, keys, stream=3)
    given_t = None if transfer_threshold is None else transferability(draw, batch, keys)
    options = dict(mask_threshold=mask_threshold, transfer_threshold=transfer_threshold, fallback=fallback)
    options |= dict(mask_logits=None if rule is None else mask, transferability=given_t, rule=rule or "none")
    q, k, v = (x.double().norm(dim=-1).max().item() for x in qkv)
    rows = (batch * heads * queries) ** 0.5
    draw.compare(
        lambda *x: tmt_ext.masked_attention(*x, **options),
        lambda *x: reference.masked_attention(*x, **options),
        qkv,
        ("output", "gradient of query", "gradient of key", "gradient of value"),
        (0, 4 * rows * v * k, 4 * rows * v * q, 0),
    )


LEVELS = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=4)


@profile(CASES)
@given(
    numbers(scales=(1.0, 1e-3, 30.0)),
    LEVELS,
    st.tuples(st.integers(0, 3), st.sampled_from([1, 2, 3, 8]), st.integers(0, 40), st.integers(1, 5)),
    st.sampled_from([1, 3, 8, 16, 17, 20, 32, 33, 64, 100]),
    STRIDES,
)
def test_deformable_attention(draw, shapes, sizes, dim, other_strides):
    batch, heads, queries, points = sizes
    value = draw.normal(batch, sum(height * width for height, width in shapes), heads, dim)
    other = draw._replace(dtype=deformable_cases.wide(draw.dtype), strides=other_strides, scale=1.0)
    generator = torch.Generator().manual_seed(draw.seed)
    locations = deformable_cases.places(shapes, batch, queries, heads, points, generator).to(other.dtype)
    weights = other.normal(*locations.shape[:-1], stream=1)
    draw.compare(
        lambda v, x, w: tmt_ext.deformable_attention(v, shapes, x, w),
        lambda v, x, w: reference.deformable_attention(v, shapes, x, w),
        [value, other_strides(locations) if locations.numel() else locations, weights],
        deformable_cases.NAMES,
        (0, 0, 0, 0),
        other.dtype,
    )
