"""Both operators in one function, as a model uses them, and what they share: devices and the compiler."""

import pytest
import torch
from helpers import gradients

import tmt_ext


def regions_then_attention(features, query):
    """Superpixels of a map, whose regions become the keys that queries attend; T from the regions' first channel."""
    found = tmt_ext.superpixel(features, 4, iterations=3, kappa=5.0)
    keys = found.region_features.flatten(2).transpose(1, 2).unflatten(-1, (2, -1)).transpose(1, 2).contiguous()
    transferability = found.region_features[:, 0].flatten(1).sigmoid().detach()
    mask = query.detach().mean(1).sum(-1, keepdim=True) + found.region_features[:, 1].flatten(1)[:, None].detach()
    attended = tmt_ext.masked_attention(
        query, keys, keys, mask, transferability, transfer_threshold=0.6, rule="foreground"
    )  # fmt: skip
    return attended, found.assignment


def test_compiled_function_of_both_gives_the_same_values_and_gradients():
    inputs = [torch.randn(2, 16, 18, 23), torch.randn(2, 2, 5, 8)]
    expected, expected_gradients = gradients(regions_then_attention, inputs)
    found, found_gradients = gradients(torch.compile(regions_then_attention, fullgraph=True), inputs)
    for one, other in zip([*expected, *expected_gradients], [*found, *found_gradients], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def elsewhere(*shape):
    """A tensor on a device without data, which every machine has."""
    return torch.empty(shape, device="meta")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: tmt_ext.packed_attention(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 3, 4), elsewhere(1, 1, 3, 4)),
            "packed_attention: value must be on the device of query, cpu, got meta",
        ),
        (
            lambda: tmt_ext.pack_mask(torch.zeros(1, 2, 3), elsewhere(1, 3), transfer_threshold=0.5),
            "pack_mask: transferability must be on the device of mask_logits, cpu, got meta",
        ),
        (
            lambda: tmt_ext.pack_mask(None, torch.zeros(1, 3), transfer_threshold=elsewhere(1), queries=2),
            "pack_mask: transfer_threshold must be on the device of transferability, cpu, got meta",
        ),
        (
            lambda: tmt_ext.deformable_attention(
                torch.zeros(1, 6, 1, 4), [(2, 3)], elsewhere(1, 2, 1, 1, 3, 2), torch.zeros(1, 2, 1, 1, 3)
            ),
            "deformable_attention: locations must be on the device of value, cpu, got meta",
        ),
        (
            lambda: tmt_ext.deformable_attention(
                torch.zeros(1, 6, 1, 4), [(2, 3)], torch.zeros(1, 2, 1, 1, 3, 2), elsewhere(1, 2, 1, 1, 3)
            ),
            "deformable_attention: weights must be on the device of value, cpu, got meta",
        ),
    ],
)
def test_tensors_on_different_devices_are_refused(call, message):
    with pytest.raises(RuntimeError, match=message):
        call()
