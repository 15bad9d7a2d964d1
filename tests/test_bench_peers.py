"""The peers that the operators are timed against compute the same thing, or a ratio would say nothing."""

import pytest
import torch

import tmt_ext
from bench import peers
from bench.__main__ import blobs


def test_unfold_superpixels_equal_the_operator():
    features = torch.randn(2, 12, 24, 32)
    found, _ = peers.superpixel_unfold(features, 8, 6, 1 / 0.07)
    expected = tmt_ext.superpixel(features, 8, iterations=6, kappa=1 / 0.07).region_features
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("peer", [peers.attention_sdpa, peers.attention_mask2former])
@pytest.mark.parametrize("rule", ["uncertain", "foreground"])
def test_attention_peers_equal_the_operator(peer, rule):
    query, key, value = (torch.randn(2, 3, count, 16) for count in (100, 200, 200))
    mask, transferability = blobs(200)
    mask[0, 0] = 5.0 if rule == "uncertain" else -5.0  # a row that falls back
    threshold = torch.quantile(transferability, 0.7, dim=1)
    found = peer(query, key, value, mask, transferability, threshold, rule)
    expected = tmt_ext.masked_attention(
        query, key, value, mask, transferability, transfer_threshold=threshold, rule=rule
    )  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
