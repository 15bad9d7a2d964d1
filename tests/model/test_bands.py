"""Swin's layers in bands: the same values, and a fraction of the memory."""

from itertools import accumulate

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from transformers import AutoBackbone, SwinConfig

from tmt.model import bands, pixel_decoder
from tmt.model.bands import BandedAttention, BandedMLP, compute_in_bands

pytestmark = pytest.mark.skipif(bands.MLP is nn.Module, reason="this version of transformers has other layers")

SIZE = (1, 3, 196, 388)  # 49 x 97 positions of stride 4


@pytest.fixture
def swin():
    config = SwinConfig(embed_dim=24, depths=[2, 1], num_heads=[1, 2], window_size=4, out_features=["stage1", "stage2"])
    return AutoBackbone.from_config(config).eval()


@torch.no_grad()
def peak(backbone, pixels):
    """The most bytes that tensors of a call take at a time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        backbone(pixels)
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def test_values_and_memory(swin, monkeypatch):
    monkeypatch.setattr(bands, "BAND", 1000)
    pixels = torch.randn(SIZE)
    with torch.no_grad():
        plain = swin(pixels).feature_maps
    whole = peak(swin, pixels)
    compute_in_bands(swin)
    with torch.no_grad():
        banded = swin(pixels).feature_maps
    for one, other in zip(plain, banded, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    inner = 49 * 97 * 4 * 24 * 4  # bytes of the tensor that is not made; the activation would be another
    assert peak(swin, pixels) < whole - inner


def test_attention_alone(swin, monkeypatch):
    """Both kinds of layers, with and without shifted windows, and several images at a time, which stay as they are."""
    attentions = [module for module in swin.modules() if type(module) is bands.ATTENTION]
    monkeypatch.setattr(bands, "BAND", 100)  # 6 windows of 16 positions
    for module in attentions:
        windows = torch.randn(20, 16, module.q_proj.in_features)
        mask = -100.0 * (torch.rand(20, 16, 16) > 0.7)
        with torch.no_grad():
            expected = [module(windows)[0], module(windows, mask)[0], module(windows, mask[:10])[0]]
            module.__class__ = BandedAttention
            found = [module(windows)[0], module(windows, mask)[0], module(windows, mask[:10])[0]]
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_gradients_and_traces_see_transformers_own(swin, monkeypatch):
    monkeypatch.setattr(bands, "BAND", 10)
    compute_in_bands(swin)
    for kind in (BandedMLP, BandedAttention):
        assert sum(isinstance(module, kind) for module in swin.modules()) == 3
    swin(torch.randn(1, 3, 64, 64)).feature_maps[1].sum().backward()
    assert all(parameter.grad is not None for name, parameter in swin.named_parameters() if ".mlp." in name)
    with torch.no_grad():
        graph = torch.jit.trace(swin, torch.randn(1, 3, 64, 64), strict=False)
        larger = torch.randn(1, 3, 96, 64)
        for one, other in zip(graph(larger)["feature_maps"], swin(larger).feature_maps, strict=True):
            torch.testing.assert_close(one, other)


def test_pixel_decoder_in_bands_is_that_of_the_whole(build, monkeypatch):
    """Its feed-forward layers and the sums of its feature pyramid, at sizes that no band divides."""
    model, pixels = build(), torch.randn(2, 3, 100, 164)
    with torch.inference_mode():
        whole = model(pixels)
        monkeypatch.setattr(bands, "BAND", 50)
        monkeypatch.setattr(pixel_decoder, "BAND", 50)
        banded = model(pixels)
    for one in ("masks_queries_logits", "class_queries_logits"):
        torch.testing.assert_close(getattr(banded, one), getattr(whole, one), rtol=1e-4, atol=1e-5)
    training = model(pixels)  # with autograd, as a whole
    torch.testing.assert_close(training.masks_queries_logits, whole.masks_queries_logits, rtol=1e-4, atol=1e-5)
