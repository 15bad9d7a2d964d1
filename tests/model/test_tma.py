"""Transferable masked attention: threshold, ties, statistics, modes, against plain torch."""

import math

import pytest
import torch
from torch import nn

from tmt.model.tma import (
    AttentionMaskBuilder,
    LevelTransferability,
    Mask,
    TransferableMaskedAttention,
    attention_weights,
    level_transferability,
)
from tmt.settings import AttentionSettings
from tmt_ext.reference import unpack_bits


def builder(rule: str, fallback: str = "all", mode: str = "mask") -> AttentionMaskBuilder:
    return AttentionMaskBuilder(AttentionSettings(mask_rule=rule, fallback=fallback, transfer_mode=mode))


def test_the_most_transferable_share_lies_above_the_threshold():
    tenths = (torch.arange(10) + 1.0)[torch.randperm(10)] / 10
    level = level_transferability(tenths.view(1, 2, 5), (2, 5), 0.3)
    assert level.threshold.item() == pytest.approx(0.73)  # position 0.7 * 9 = 6.3 between 0.7 and 0.8
    assert sorted(level.values[level.values > level.threshold].tolist()) == pytest.approx([0.8, 0.9, 1.0])


def test_ties_at_the_threshold_are_kept():
    values = torch.tensor([0.1, 0.2, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 1.0])
    level = level_transferability(values.view(1, 1, 10), (1, 10), 0.3)
    assert level.threshold.item() == values[2].item()
    assert (level.values <= level.threshold).sum() == 9
    constant = level_transferability(torch.full((1, 4, 4), 0.37), (4, 4), 0.5)
    assert (constant.values <= constant.threshold[:, None]).all()


def test_threshold_belongs_to_image_and_level():
    transferability = torch.stack([torch.rand(8, 12) * 0.1, 0.9 + torch.rand(8, 12) * 0.1])
    fine, coarse = (level_transferability(transferability, size, 0.25) for size in ((8, 12), (2, 3)))
    assert fine.threshold[0] < 0.11 and fine.threshold[1] > 0.89
    blocks = transferability.view(2, 2, 4, 3, 4).mean((2, 4)).flatten(1)
    torch.testing.assert_close(coarse.values, blocks)
    torch.testing.assert_close(coarse.threshold, torch.quantile(blocks, 0.75, dim=1))
    for level in (fine, coarse):
        excluded = (level.values > level.threshold[:, None]).float().mean(1)
        assert ((excluded - 0.25).abs() <= 1 / level.values.shape[1]).all()


@pytest.mark.parametrize("rule", ["uncertain", "foreground", "none"])
@pytest.mark.parametrize("fallback", ["all", "transfer"])
def test_mask_and_statistics_equal_a_naive_count(rule, fallback):
    logits, transferability = torch.randn(2, 9, 70), torch.rand(2, 70)
    logits[0, 0] = 8.0  # nothing uncertain
    logits[0, 1] = -8.0  # nothing in the foreground
    level = LevelTransferability(transferability, torch.tensor([0.6, 0.2]))
    mask = mask_of(builder(rule, fallback), logits, level)
    allowed, fractions, fallen = unpack_bits(mask.bits, 70), [], []
    for b in range(2):
        for n in range(9):
            passes = [_passes(rule, logits[b, n, j]) for j in range(70)]
            transfers = [bool(transferability[b, j] <= level.threshold[b]) for j in range(70)]
            both = [p and t for p, t in zip(passes, transfers, strict=True)]
            fractions.append(sum(both) / 70)
            fallen.append(not any(both))
            if not any(both):
                both = transfers if fallback == "transfer" and any(transfers) else [True] * 70
            assert allowed[b, n].tolist() == both
    for b, image in enumerate((slice(9), slice(9, 18))):
        assert mask.allowed_fraction[b].item() == pytest.approx(sum(fractions[image]) / 9)
        assert mask.fallback_rate[b].item() == pytest.approx(sum(fallen[image]) / 9)
    assert any(fallen) == (rule != "none")


def mask_of(maker, logits, transfer):
    """The maker's mask for mask logits (B, N, S), as the product of unit embeddings and themselves."""
    return maker(torch.eye(logits.shape[1]).expand(len(logits), -1, -1), logits, transfer, logits.shape[2])


def _passes(rule, logit):
    return {"uncertain": logit <= 0, "foreground": logit >= 0, "none": torch.tensor(True)}[rule].item()


def test_no_rule_and_no_transferability_is_plain_attention():
    mask = mask_of(builder("none"), torch.randn(1, 3, 5), None)
    assert mask.bits is None and mask.bias is None
    assert (mask.allowed_fraction.item(), mask.fallback_rate.item()) == (1.0, 0.0)


def _attention_pair(channels=16, heads=4):
    """Our attention and torch's, with the same weights."""
    ours = TransferableMaskedAttention(channels, heads)
    nn.init.normal_(ours.in_proj_bias)
    theirs = nn.MultiheadAttention(channels, heads, batch_first=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def test_masked_attention_equals_torch():
    ours, theirs = _attention_pair()
    query, key, value = torch.randn(2, 5, 16), torch.randn(2, 70, 16), torch.randn(2, 70, 16)
    transfer = LevelTransferability(torch.rand(2, 70), torch.tensor([0.5, 0.7]))
    mask = mask_of(builder("uncertain"), torch.randn(2, 5, 70), transfer)
    blocked = ~unpack_bits(mask.bits, 70).repeat_interleave(4, 0)
    expected, weights = theirs(query, key, value, attn_mask=blocked, average_attn_weights=False)
    found = ours(query, key, value, mask, record=True)
    torch.testing.assert_close(found.output, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.weights, weights, rtol=1e-5, atol=1e-5)
    assert ours(query, key, value, mask).weights is None


def test_bias_mode_adds_log_novelty_and_keeps_the_mask_rule():
    ours, theirs = _attention_pair()
    query, key = torch.randn(2, 5, 16), torch.randn(2, 70, 16)
    logits, transferability = torch.randn(2, 5, 70), torch.rand(2, 70)
    transferability[0, 3] = 1.0  # whose logarithm is not finite
    transfer = LevelTransferability(transferability, torch.zeros(2))  # a threshold that would exclude all
    mask = mask_of(builder("foreground", mode="bias"), logits, transfer)
    bias = torch.log((1 - transferability).clamp(min=1e-6))[:, None].expand(-1, 5, -1)
    bias = bias.masked_fill(logits < 0, -math.inf).repeat_interleave(4, 0)
    expected, _ = theirs(query, key, key, attn_mask=bias)
    torch.testing.assert_close(ours(query, key, key, mask).output, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mask.allowed_fraction, (logits >= 0).float().mean((1, 2)))


def test_bias_mode_changes_the_model(build, images):
    hard = build()
    soft = build(transfer_mode="bias")
    soft.load_state_dict(hard.state_dict())
    with torch.no_grad():
        assert not torch.allclose(hard(images).masks_queries_logits, soft(images).masks_queries_logits)


def test_recorded_attention_is_zero_where_not_allowed_and_changes_nothing(build, images):
    model = build()
    with torch.no_grad():
        plain, recorded = model(images), model(images, output_attentions=True)
    torch.testing.assert_close(plain.masks_queries_logits, recorded.masks_queries_logits)
    assert plain.cross_attentions is None
    sizes = [4 * 5, 7 * 9, 13 * 17, 4 * 5]
    assert [tuple(a.shape) for a in recorded.cross_attentions] == [(2, 4, 12, s) for s in sizes]
    for layer, weights in enumerate(recorded.cross_attentions):
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 12))
        attended = (weights > 0).float().mean((1, 2, 3))
        expected = recorded.allowed_fraction[:, layer] + recorded.fallback_rate[:, layer]
        torch.testing.assert_close(attended, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", ["uncertain", "none"])
def test_statistics_belong_to_images(build, images, rule):
    """So that what collects a batch's outputs, image by image, collects these too."""
    model = build(mask_rule=rule, transferability=rule != "none")
    with torch.no_grad():
        both, alone = model(images), [model(image[None]) for image in images]
    for name in ("allowed_fraction", "fallback_rate"):
        assert both[name].shape == (2, 4)
        torch.testing.assert_close(both[name], torch.cat([one[name] for one in alone]), rtol=0, atol=1e-3)
    assert all(len(value) == 2 for value in both.to_tuple())


@pytest.mark.parametrize("exclude", ["high", "low"])
def test_excluded_positions_are_not_attended(build, images, exclude):
    model = build(mask_rule="none", transfer_exclude=exclude)
    given = torch.rand(2, 13, 17)
    with torch.no_grad():
        outputs = model(images, transferability=given, output_attentions=True)
    fine = outputs.cross_attentions[2]  # stride 8, the size of `given`
    kept = given.flatten(1) if exclude == "high" else 1 - given.flatten(1)
    excluded = kept > torch.quantile(kept, 0.7, dim=1, keepdim=True)
    assert (fine[excluded[:, None, None].expand_as(fine)] == 0).all()
    assert (fine[~excluded[:, None, None].expand_as(fine)] > 0).all()
    torch.testing.assert_close(outputs.allowed_fraction[:, 2], (~excluded).float().mean(1))
    assert outputs.region_labels is None


def test_weights_of_an_unmasked_query_are_softmax():
    query, key = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 6, 8)
    mask = Mask(None, None, torch.ones(1), torch.zeros(1))
    expected = (query @ key.transpose(-1, -2) / math.sqrt(8)).softmax(-1)
    torch.testing.assert_close(attention_weights(query, key, mask), expected)
