"""Swin's windows by index are those of transformers' layers, at any size."""

import pytest
import torch
from transformers import AutoBackbone
from transformers.models.swin.modeling_swin import SwinLayer

from tests.helpers.tiny_backbones import tiny
from tmt.model.free_size import FreeLayer, Windows, free_size


@pytest.mark.parametrize("size", [(64, 64), (96, 224), (224, 448), (288, 160), (97, 131)])
def test_layers_equal_those_of_transformers(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    backbone = AutoBackbone.from_config(tiny("swin", depths=[1, 2, 2, 2])).eval().double()
    layers = [module for module in backbone.modules() if type(module) is SwinLayer]
    assert any(layer.shift_size for layer in layers)
    for layer in layers:  # at first all positions weigh alike
        layer.attention.relative_position_bias.relative_position_bias_table.data.normal_()
    pixels = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = backbone(pixels).feature_maps
        with free_size(backbone):
            assert not [module for module in backbone.modules() if type(module) is SwinLayer]
            found = backbone(pixels).feature_maps
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)  # their softmax is in float32
    assert all(type(layer) is SwinLayer for layer in layers) and backbone.config._attn_implementation == "sdpa"


def test_layers_come_back_after_an_error() -> None:
    backbone = AutoBackbone.from_config(tiny("swin"))
    with pytest.raises(KeyError), free_size(backbone):
        raise KeyError
    assert not [module for module in backbone.modules() if isinstance(module, FreeLayer)]


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("size", [(4, 4), (3, 9), (7, 5), (1, 2)])
def test_windows_joined_again_are_the_map(size: tuple[int, int], shift: int) -> None:
    windows = Windows(size, 4, shift)
    tokens = torch.arange(2.0 * size[0] * size[1] * 3).view(2, -1, 3) + 1
    cut = windows.cut(tokens)
    count = -(-size[0] // 4) * -(-size[1] // 4)
    assert cut.shape == (2 * count, 16, 3) and torch.equal(windows.join(cut, 2), tokens)
    assert int((cut == 0).sum()) == cut.numel() - tokens.numel()  # zeros fill the rest, and nothing is there twice


def test_what_a_shift_brings_together_is_kept_apart() -> None:
    """A map of 4 x 4, one window of 4, shifted by 1: row 0 and column 0 come last."""
    tokens = torch.zeros(1, 16, 1)
    assert Windows((4, 4), 4, 0).mask(tokens) is None
    (mask,) = Windows((4, 4), 4, 1).mask(tokens).view(1, 16, 16)
    rows, columns = torch.arange(16) // 4 == 3, torch.arange(16) % 4 == 3
    expected = (rows[:, None] != rows) | (columns[:, None] != columns)
    assert torch.equal(mask < 0, expected) and bool(expected.any())
