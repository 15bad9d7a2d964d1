"""The decoder's layers copy no key or value: not to make it contiguous, and not to cast it under autocast."""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tmt.model import decoder

COPYING = ("aten::clone", "aten::_to_copy", "aten::copy_", "aten::contiguous")
LEVELS = [(3, 5), (6, 10), (12, 20)]
CHANNELS, MASK_CHANNELS, BATCH, LAYERS = 64, 48, 2, 6
SIZES = {BATCH * CHANNELS * height * width for height, width in LEVELS}


class Copies(TorchDispatchMode):
    """Counts copies of tensors that have as many elements as a level's keys."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.count += function._schema.name in COPYING and result.numel() in SIZES
        return result


@pytest.fixture
def module(build):
    return build(decoder_layers=LAYERS + 1, mask_feature_size=MASK_CHANNELS).model.transformer_module.train()


def inputs(module):
    maps = tuple(torch.randn(BATCH, CHANNELS, *size) for size in LEVELS)
    features = torch.randn(BATCH, MASK_CHANNELS, 24, 32)
    return maps, features


def autocast(enabled):
    return torch.autocast("cpu", torch.bfloat16) if enabled else contextlib.nullcontext()


@pytest.mark.parametrize("half", [False, True])
def test_layers_copy_no_key_or_value(module, monkeypatch, half):
    layers, calls = Copies(), []
    original = decoder.DecoderLayer.forward

    def counted(self, *arguments):
        calls.append(self)
        with layers:
            return original(self, *arguments)

    monkeypatch.setattr(decoder.DecoderLayer, "forward", counted)
    with autocast(half):
        queries = module(*inputs(module), None).queries
    assert len(calls) == LAYERS and layers.count == 0
    with Copies() as backward:
        queries.float().sum().backward()
    assert backward.count == (2 * len(LEVELS) if half else 0)  # the casts' own backward, once per level


@pytest.mark.parametrize("half", [False, True])
def test_a_level_is_made_ready_once(module, half):
    with autocast(half), Copies() as copies:
        module(*inputs(module), None)
    assert copies.count == 2 * len(LEVELS)  # keys and values


def gradients(module, given, ready):
    """Of all parameters under autocast, the levels made ready or left to the layers' projections."""
    module.zero_grad()
    with pytest.MonkeyPatch.context() as patch, autocast(True):
        if not ready:
            patch.setattr(decoder, "for_projections", lambda level: level)
        module(*given, None).queries.float().square().sum().backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def test_gradients_are_those_of_casts_in_every_layer(module):
    given = inputs(module)
    once, each = (gradients(module, given, ready) for ready in (True, False))
    assert once.keys() == each.keys() and any("level_embed" in name for name in once)
    for name, gradient in once.items():
        assert gradient.dtype == torch.float32
        difference = (gradient - each[name]).norm() / each[name].norm().clamp_min(1e-3)
        assert difference < 1e-2, f"{name}: {difference:.1e}"


def test_float64_stays_under_autocast():
    level = decoder.Level(*(torch.randn(1, 5, 8, dtype=torch.float64) for _ in range(2)), torch.zeros(1, 3, 5), None)
    with autocast(True):
        assert decoder.for_projections(level).keys.dtype == torch.float64
