"""tmt_ext.pack_predicted_mask on the CPU against its float64 reference: equal wherever rounding cannot decide."""

import itertools
import math

import pytest
import torch
from attention_inputs import FALLBACKS, thresholds

import tmt_ext
from tmt_ext import reference

RULES = ("uncertain", "foreground")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# batch, queries, channels, keys: rows and keys that fill no group, word or strip; one of each; several strips.
SHAPES = [(2, 7, 16, 150), (1, 100, 256, 700), (3, 1, 1, 1), (1, 13, 33, 64), (2, 6, 5, 257), (1, 3, 8, 513)]


def product(batch, queries, channels, keys, dtype=torch.float32, seed=0):
    """mask_embeddings (B, N, E), mask_features (B, E, S) with logits of order 1, transferability (B, S)."""
    g = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(batch, queries, channels, generator=g, dtype=torch.float64) / math.sqrt(channels)
    features = torch.randn(batch, channels, keys, generator=g, dtype=torch.float64)
    return embeddings.to(dtype), features.to(dtype), torch.rand(batch, keys, generator=g)


def undecided(embeddings, features, threshold):
    """(B, N, S) bool: where the rounding of the sum (and of the threshold) may decide."""
    embeddings, features = embeddings.double(), features.double()
    epsilon = torch.finfo(torch.float32).eps
    bound = epsilon * (embeddings.shape[-1] * (embeddings.abs() @ features.abs()) + abs(threshold))
    return (embeddings @ features - threshold).abs() <= bound


def assert_same(embeddings, features, transferability=None, *, mask_threshold=0.5, **options):
    """Decisions equal those of float64 outside the band, which holds next to none of them."""
    options["mask_threshold"] = mask_threshold
    packed = tmt_ext.pack_predicted_mask(embeddings, features, transferability, **options)
    expected, count = reference.allowed_mask(embeddings.double() @ features.double(), transferability, **options)
    open_to_rounding = undecided(embeddings, features, math.log(mask_threshold / (1 - mask_threshold)))
    assert open_to_rounding.sum() <= 0.001 * open_to_rounding.numel()
    # Where the last allowed key of a row is in the band, so is the fallback of the whole row.
    sure = ~open_to_rounding | (open_to_rounding.sum(-1) >= count)[..., None] & (count > 0)[..., None]
    found = reference.unpack_bits(packed.bits, features.shape[2])
    assert torch.equal(found & sure, expected & sure)
    assert ((packed.allowed - count).abs() <= open_to_rounding.sum(-1)).all()
    assert packed.bits.dtype == torch.int64 and packed.allowed.dtype == torch.int32
    return packed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule,fallback", list(itertools.product(RULES, FALLBACKS)))
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_reference(shape, rule, fallback, dtype):
    embeddings, features, transferability = product(*shape, dtype)
    options = dict(mask_threshold=0.4, rule=rule, fallback=fallback)
    assert_same(embeddings, features, **options)
    assert_same(embeddings, features, transferability, transfer_threshold=thresholds(transferability), **options)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_any_share_of_kept_keys(kept, rule):
    embeddings, features, transferability = product(2, 10, 32, 800)
    transferability[0, 100:500] = 0.0 if kept else 1.0  # whole words kept or dropped, beside words of both
    assert_same(embeddings, features, transferability, transfer_threshold=kept, rule=rule)


@pytest.mark.parametrize("rule", RULES)
def test_exact_sums_decide_exactly(rule):
    """Small integers have no rounding: every tie counts, in every dtype, as in pack_mask of the product."""
    g = torch.Generator().manual_seed(0)
    embeddings = torch.randint(-2, 3, (2, 9, 12), generator=g).float()
    features = torch.randint(-2, 3, (2, 12, 300), generator=g).float()
    expected = tmt_ext.pack_mask(embeddings @ features, rule=rule)
    for dtype in DTYPES:
        packed = tmt_ext.pack_predicted_mask(embeddings.to(dtype), features.to(dtype), rule=rule)
        assert torch.equal(packed.bits, expected.bits) and torch.equal(packed.allowed, expected.allowed)


@pytest.mark.parametrize("fallback,expected", [("all", [True] * 3), ("transfer", [True, False, True])])
def test_fallback(fallback, expected):
    transferability = torch.tensor([[0.1, 0.9, 0.2], [0.9, 0.9, 0.9]])
    ones = torch.ones(2, 1, 4), torch.ones(2, 4, 3)  # logits 4: uncertain nowhere
    packed = tmt_ext.pack_predicted_mask(*ones, transferability, transfer_threshold=0.5, fallback=fallback)
    allowed = reference.unpack_bits(packed.bits, 3)
    assert allowed[0, 0].tolist() == expected and allowed[1, 0].tolist() == [True] * 3
    assert packed.allowed.tolist() == [[0], [0]]


@pytest.mark.parametrize("rule", RULES)
def test_nan_and_infinite_logits(rule):
    embeddings = torch.ones(1, 8, 1)
    features = torch.tensor([math.nan, math.inf, -math.inf, 0.0, 1e-40]).repeat(60)[None, None]  # (1, 1, 300)
    packed = tmt_ext.pack_predicted_mask(embeddings, features, rule=rule)
    expected = tmt_ext.pack_mask(features.expand(1, 8, 300), rule=rule)
    assert torch.equal(packed.bits, expected.bits) and torch.equal(packed.allowed, expected.allowed)


def test_nan_where_t_excludes_does_not_matter():
    embeddings, features, transferability = product(1, 8, 16, 300)
    features[:, :, transferability[0] > 0.5] = math.nan
    packed = tmt_ext.pack_predicted_mask(embeddings, features, transferability, transfer_threshold=0.5)
    clean = tmt_ext.pack_predicted_mask(embeddings, features.nan_to_num(0.0), transferability, transfer_threshold=0.5)
    assert torch.equal(packed.bits, clean.bits)


@pytest.mark.parametrize("shape", [(0, 3, 4, 70), (2, 0, 4, 70), (2, 3, 4, 0)])
def test_empty(shape):
    embeddings, features, transferability = product(*shape)
    assert_same(embeddings, features, transferability, transfer_threshold=0.5)


def test_non_contiguous():
    embeddings, features, transferability = product(2, 7, 16, 150)
    expected = tmt_ext.pack_predicted_mask(embeddings, features, transferability, transfer_threshold=0.5)
    strided = [x.mT.contiguous().mT for x in (embeddings, features)]
    found = tmt_ext.pack_predicted_mask(*strided, transferability.t().contiguous().t(), transfer_threshold=0.5)
    assert torch.equal(found.bits, expected.bits) and torch.equal(found.allowed, expected.allowed)


def test_same_bits_for_any_number_of_threads():
    embeddings, features, transferability = product(2, 50, 64, 1500)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(tmt_ext.pack_predicted_mask(embeddings, features, transferability, transfer_threshold=0.7).bits)
    torch.set_num_threads(before)
    assert all(torch.equal(bits, results[0]) for bits in results)


def test_autocast_leaves_float32_alone_and_takes_the_wider_dtype():
    embeddings, features, _ = product(1, 20, 64, 900)
    expected = tmt_ext.pack_predicted_mask(embeddings, features).bits
    rounded = embeddings.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tmt_ext.pack_predicted_mask(embeddings, features).bits, expected)
        mixed = tmt_ext.pack_predicted_mask(rounded, features).bits
    assert torch.equal(mixed, tmt_ext.pack_predicted_mask(rounded.float(), features).bits)
    assert not torch.equal(mixed, expected)
    with pytest.raises(RuntimeError, match="mask_features must have the dtype of mask_embeddings"):
        tmt_ext.pack_predicted_mask(rounded, features)


def test_no_gradient():
    embeddings, features, _ = product(1, 3, 8, 70)
    packed = tmt_ext.pack_predicted_mask(embeddings.requires_grad_(), features.requires_grad_())
    assert not packed.bits.requires_grad and not packed.allowed.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype):
    embeddings, features, transferability = product(2, 7, 16, 150, dtype)
    arguments = (embeddings, features, transferability, thresholds(transferability), 0.25, 1, 0)
    torch.library.opcheck(torch.ops.tmt.pack_predicted_mask.default, arguments)


def pack(**changes):
    """The operator itself on good arguments, but for `changes` (a tuple is the shape of a tensor of zeros)."""
    given = dict(embeddings=(2, 3, 8), features=(2, 8, 70), transferability=(2, 70), threshold=(2,))
    given |= dict(logit=0.0, rule=1, fallback=0) | changes
    return torch.ops.tmt.pack_predicted_mask(*(torch.zeros(x) if isinstance(x, tuple) else x for x in given.values()))


@pytest.mark.parametrize(
    "changes,message",
    [
        (dict(embeddings=(2, 8)), r"mask_embeddings must be \(B, N, E\) .*, got \(2, 8\)"),
        (dict(embeddings=(2, 3, 0), features=(2, 0, 70)), r"mask_embeddings must be .* E at least 1, got \(2, 3, 0\)"),
        (dict(embeddings=torch.zeros(2, 3, 8).int()), "mask_embeddings must be floating-point, got int32"),
        (dict(features=(2, 9, 70)), r"mask_features must be \(B, E, S\) .* \(2, 3, 8\), got \(2, 9, 70\)"),
        (dict(features=(1, 8, 70)), r"mask_features must be \(B, E, S\) .* \(2, 3, 8\), got \(1, 8, 70\)"),
        (
            dict(features=torch.zeros(2, 8, 70).half()),
            r"mask_features must have the dtype of .* \(float32\), got float16",
        ),
        (dict(transferability=(2, 71)), r"transferability must be \(B, S\) = \(2, 70\), got \(2, 71\)"),
        (dict(threshold=None), "transfer_threshold must be given with transferability"),
        (dict(transferability=None), "transferability must be given with transfer_threshold"),
        (dict(threshold=torch.tensor([0.5, 1.5])), r"transfer_threshold must be in \[0, 1\], got 1.5"),
        (dict(rule=0), "rule must be 1 .*, got 0"),
        (dict(rule=3), "rule must be .*, got 3"),
        (dict(fallback=2), "fallback must be 0 .*, got 2"),
        (dict(logit=math.nan), "mask_logit_threshold must be a number, got NaN"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(RuntimeError, match=f"pack_predicted_mask: {message}") as error:
        pack(**changes)
    assert "\n" not in str(error.value).strip()


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(mask_threshold=1.5), "pack_predicted_mask: mask_threshold must be in"),
        (dict(transfer_threshold=-0.1), "pack_predicted_mask: transfer_threshold must be in"),
        (dict(transfer_threshold=None), "pack_predicted_mask: transferability and transfer_threshold"),
        (dict(rule="none"), "pack_predicted_mask: rule must be .*'none'"),
        (dict(rule="background"), "pack_predicted_mask: rule must be one of .*'background'"),
        (dict(fallback="nothing"), "pack_predicted_mask: fallback must be one of .*'nothing'"),
    ],
)
def test_refuses_values(options, message):
    embeddings, features, transferability = product(1, 2, 3, 4)
    with pytest.raises(ValueError, match=message):
        tmt_ext.pack_predicted_mask(embeddings, features, transferability, **{"transfer_threshold": 0.5, **options})
