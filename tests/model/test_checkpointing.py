"""Gradient checkpointing: the same losses and gradients, from layers that are computed twice."""

import pytest
import torch

from bench.models import Batch
from tmt.model.decoder import DecoderLayer
from tmt.model.pixel_decoder import EncoderLayer
from tmt.training.segmentation import checkpoint_layers

CLASSES = 5


def step(model, batch):
    """Loss and gradients of one training step with random points, drop path and dropout from one seed."""
    torch.manual_seed(1)
    model.train().zero_grad()
    labels = [classes % CLASSES for classes in batch.class_labels]
    loss = model(batch.pixels, batch.mask_labels, labels, sample_seeds=torch.arange(len(labels))).loss
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("backbone", ["swin", "resnet"])
def test_losses_and_gradients_are_the_same(build, backbone):
    model = build(backbone, dropout=0.1, transfer_fraction=0.3)
    batch = Batch.draw(2, (64, 96))
    calls = {DecoderLayer: 0, EncoderLayer: 0}

    def count(module, *_):
        calls[type(module)] += 1

    for layer in [one for one in model.modules() if type(one) in calls]:
        layer.register_forward_hook(count)
        inner = layer.fc1.register_forward_pre_hook(lambda _, __, layer=layer: count(layer))
        assert inner
    plain, expected = step(model, batch)
    once = dict(calls)
    checkpoint_layers(model)
    loss, gradients = step(model, batch)
    assert loss == pytest.approx(plain, rel=1e-6) and gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)
    for kind, number in once.items():
        assert calls[kind] - number > number, f"{kind.__name__} was not computed again"
