"""The peers that the operators are timed against compute the same thing, or a ratio would say nothing."""

import pytest
import torch

import tmt_ext
from bench import inputs, peers

KAPPA = 1 / 0.07


EAGER = [peers.superpixel_unfold, peers.superpixel_windows, peers.superpixel_scatter]
COMPILED = [peers.compiled_unfold(), peers.compiled_windows()]


@pytest.mark.parametrize("peer", EAGER + COMPILED)
def test_superpixel_peers_equal_the_operator(peer):
    features = torch.randn(2, 12, 24, 32, dtype=torch.float64)
    expected = tmt_ext.superpixel(features, 8, iterations=6, kappa=KAPPA).region_features
    torch.testing.assert_close(peer(features, 8, 6, KAPPA), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("peer", EAGER)
def test_superpixel_peers_have_the_same_gradient(peer):
    features = torch.randn(2, 12, 24, 32, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 12, 3, 4, dtype=torch.float64)
    expected = tmt_ext.superpixel(features, 8, iterations=6, kappa=KAPPA).region_features
    (expected,) = torch.autograd.grad((expected * weight).sum(), features)
    (found,) = torch.autograd.grad((peer(features, 8, 6, KAPPA) * weight).sum(), features)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


def attention_case(rule):
    """Inputs with a row that falls back, and with images that keep different numbers of keys."""
    query, key, value = (torch.randn(2, 3, count, 16) for count in (100, 200, 200))
    mask, transferability = inputs.blobs(2, 100, 200)
    mask[0, 0] = 5.0 if rule == "uncertain" else -5.0
    threshold = torch.stack([transferability[0].quantile(0.7), transferability[1].quantile(0.4)])
    return query, key, value, mask, transferability, threshold


PEERS = [peers.attention_sdpa, peers.attention_gathered, peers.attention_mask2former]


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("rule", ["uncertain", "foreground"])
def test_attention_peers_equal_the_operator(peer, rule):
    query, key, value, mask, transferability, threshold = attention_case(rule)
    leaves = [tensor.requires_grad_() for tensor in (query, key, value)]
    options = {"transfer_threshold": threshold, "rule": rule}
    expected = tmt_ext.masked_attention(*leaves, mask, transferability, **options)
    found = peer(*leaves, mask, transferability, threshold, rule)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(found)
    gradients = (torch.autograd.grad((output * weight).sum(), leaves) for output in (found, expected))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", ["uncertain", "foreground"])
def test_compiled_flex_attention_equals_the_operator(rule):
    query, key, value, mask, transferability, threshold = attention_case(rule)
    options = {"transfer_threshold": threshold, "rule": rule}
    expected = tmt_ext.masked_attention(query, key, value, mask, transferability, **options)
    with torch.no_grad():
        found = peers.attention_flex(query, key, value, mask, transferability, threshold, rule)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
