"""Half precision, meta and fake tensors: whatever plain Mask2Former runs in, the model does."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tmt.model import TMTForSemanticSegmentation, masks_from_labels

PLAIN = {"mask_rule": "foreground", "transferability": False}
FIELDS = pytest.mark.parametrize(
    "fields",
    [{}, PLAIN, {"regions": "grid", "mask_rule": "none"}, {"transfer_mode": "bias"}, {"transfer_features": "source"}],
    ids=lambda fields: " ".join(map(str, fields.values())) or "default",
)
HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
SHAPES = {"class_queries_logits": (2, 12, 6), "masks_queries_logits": (2, 12, 25, 33), "fallback_rate": (2, 4)}


def distance(found, expected):
    """Mean error of mask logits, relative."""
    found, expected = found.masks_queries_logits.float(), expected.masks_queries_logits
    return ((found - expected).abs().mean() / expected.abs().mean()).item()


@HALF
@FIELDS
def test_weights_of_half_precision(build, images, fields, dtype):
    model = build("resnet", **fields)
    with torch.no_grad():
        expected, found = model(images), copy.deepcopy(model).to(dtype)(images.to(dtype))
    assert distance(found, expected) < 0.1  # keys near a threshold change sides


@HALF
@pytest.mark.parametrize("backbone", ["swin", "resnet"])
def test_half_precision_costs_what_it_costs_transformers(build, plain_twin, images, backbone, dtype):
    model = build(backbone, **PLAIN)
    twin = plain_twin(model)
    with torch.no_grad():
        expected = twin(images)
        ours, theirs = model.to(dtype)(images.to(dtype)), twin.to(dtype)(images.to(dtype))
    assert 0 < distance(ours, expected) < 2 * distance(theirs, expected)


@HALF
def test_a_model_is_loaded_in_half_precision(build, images, tmp_path, dtype):
    model = build()
    model.save_pretrained(tmp_path)
    loaded = TMTForSemanticSegmentation.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    with torch.no_grad():
        found = loaded(images.to(dtype))
        torch.testing.assert_close(
            found.masks_queries_logits, model.to(dtype)(images.to(dtype)).masks_queries_logits, rtol=0, atol=0
        )


def test_weights_of_half_precision_get_gradients(build, images, labels):
    model = build().to(torch.bfloat16).train()
    loss = model(images.bfloat16(), *masks_from_labels(labels, 5)).loss
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def shapes(outputs):
    return {name: tuple(outputs[name].shape) for name in SHAPES}


@FIELDS
@pytest.mark.parametrize("backbone", ["swin", "resnet"])
def test_on_the_meta_device(build, images, backbone, fields):
    outputs = build(backbone, **fields).to("meta")(images.to("meta"))
    assert shapes(outputs) == SHAPES and outputs.masks_queries_logits.device.type == "meta"


@FIELDS
def test_on_fake_tensors(build, fields):
    model = build("resnet", **fields)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert shapes(model(torch.randn(2, 3, 97, 131))) == SHAPES
        given = torch.rand(2, 13, 17)
        assert shapes(model(torch.randn(2, 3, 97, 131), transferability=given)) == SHAPES


def test_with_fake_weights(build):
    with FakeTensorMode():
        assert shapes(build("resnet")(torch.randn(2, 3, 97, 131))) == SHAPES
