"""Layers put in the place of others, as adapters and quantisers do, are called."""

import copy

import pytest
import torch
from torch import nn


class Scaled(nn.Module):
    """A layer's result times a trained factor: an adapter at its simplest."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, *args):
        return self.factor * self.layer(*args)


def adapted(model):
    """The model with every projection and convolution behind an adapter, and the adapters by name."""
    names = [name for name, part in model.named_modules() if type(part) in (nn.Linear, nn.Conv2d)]
    adapters = {name: Scaled(model.get_submodule(name)) for name in names}
    for name, adapter in adapters.items():
        model.set_submodule(name, adapter)
    return adapters


@pytest.mark.parametrize("backbone", ["swin", "resnet"])
@pytest.mark.parametrize("copied", [False, True])
def test_every_layer_that_is_put_in_place_is_called(build, images, backbone, copied):
    model = build(backbone)
    model = copy.deepcopy(model) if copied else model
    with torch.no_grad():
        before = model(images)
    adapters = adapted(model)
    called = set()
    for name, adapter in adapters.items():
        adapter.register_forward_hook(lambda *_, name=name: called.add(name))
    with torch.no_grad():
        after = model(images)
    assert set(adapters) - called == set()
    assert sum("mask_embedder" in name for name in called) == 3 and sum("adapter_1" in name for name in called) == 1
    torch.testing.assert_close(after.masks_queries_logits, before.masks_queries_logits, rtol=1e-5, atol=1e-5)


def test_a_copy_calls_its_own_layers(build, images):
    model = build()
    with torch.no_grad():
        before = model(images).masks_queries_logits
        other = copy.deepcopy(model)
        for parameter in other.model.transformer_module.decoder.mask_predictor.parameters():
            parameter.zero_()
        assert other(images).masks_queries_logits.eq(0).all()
        assert torch.equal(model(images).masks_queries_logits, before)


@pytest.mark.filterwarnings("ignore")
def test_quantised_projections_are_used(build, images):
    model = build(transferability=False, mask_rule="none")
    with torch.no_grad():
        expected = model(images).masks_queries_logits
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
        embedder = quantised.model.transformer_module.decoder.mask_predictor.mask_embedder
        layers, called = [block.get_submodule("0") for block in embedder.children()], set()
        assert not any(type(layer) is nn.Linear for layer in layers)
        for layer in layers:
            layer.register_forward_hook(lambda used, *_: called.add(used))
        found = quantised(images).masks_queries_logits
    assert called == set(layers)
    assert 0 < (found - expected).abs().mean() < 0.1 * expected.abs().mean()
