"""Without T and with rule `foreground` the model is transformers' Mask2Former, in its outputs and in its loss."""

from contextlib import nullcontext

import pytest
import torch
from transformers.models.mask2former.modeling_mask2former import Mask2FormerTransformerModule as TransformerModule

import tmt_ext
from tmt.model import criterion, masks_from_labels
from tmt.model.factory import weigh_classes


@pytest.mark.parametrize("backbone", ["swin", "resnet"])
@pytest.mark.parametrize("size", [(97, 131), (64, 128)])
def test_logits_equal_transformers(build, plain_twin, backbone, size):
    model = build(backbone, mask_rule="foreground", transferability=False)
    twin = plain_twin(model)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        ours = model(images, output_auxiliary_logits=True, output_hidden_states=True)
        theirs = twin(images, output_auxiliary_logits=True, output_hidden_states=True)
    assert theirs.masks_queries_logits.abs().max() > 1  # else 1e-5 would prove nothing
    for mine, reference in _pairs(ours, theirs):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-5)
    assert len(ours.auxiliary_logits) == len(theirs.auxiliary_logits) == model.config.decoder_layers - 1
    assert ours.transferability is None


def _pairs(ours, theirs):
    yield ours.class_queries_logits, theirs.class_queries_logits
    yield ours.masks_queries_logits, theirs.masks_queries_logits
    for mine, reference in zip(ours.auxiliary_logits, theirs.auxiliary_logits, strict=True):
        yield mine["class_queries_logits"], reference["class_queries_logits"]
        yield mine["masks_queries_logits"], reference["masks_queries_logits"]
    for name in ("encoder_hidden_states", "pixel_decoder_hidden_states"):
        yield from zip(getattr(ours, name), getattr(theirs, name), strict=True)
    last = "transformer_decoder_last_hidden_state"
    yield getattr(ours, last), getattr(theirs, last)


def test_pre_norm_equals_transformers(build, plain_twin, images):
    model = build(mask_rule="foreground", transferability=False, pre_norm=True)
    with torch.no_grad():
        ours, theirs = model(images), plain_twin(model)(images)
    torch.testing.assert_close(ours.masks_queries_logits, theirs.masks_queries_logits, rtol=1e-5, atol=1e-5)


def test_input_projections_equal_transformers(build, plain_twin, images):
    """Where the decoder is wider than the pixel decoder; older versions lose these weights."""
    model = build(mask_rule="foreground", transferability=False, feature_size=32)
    name = "model.transformer_module.input_projections.2.weight"
    assert model.state_dict()[name].shape == (64, 32, 1, 1)
    if isinstance(TransformerModule(64, model.config).input_projections, list):
        pytest.skip("this version of transformers does not register its input projections")
    with torch.no_grad():
        ours, theirs = model(images), plain_twin(model)(images)
    torch.testing.assert_close(ours.masks_queries_logits, theirs.masks_queries_logits, rtol=1e-5, atol=1e-5)


def _points(count):
    """The same points (count, 2) whoever asks for that many."""
    return torch.empty(count, 2).uniform_(generator=torch.Generator().manual_seed(count))


def _between_pixels(model):
    """Moves samples off the middle of pixels, where new weights put them and bilinear slopes differ left and right."""
    for layer in model.model.pixel_level_module.decoder.encoder.layers:
        torch.nn.init.normal_(layer.self_attn.sampling_offsets.weight, std=0.02)


@pytest.fixture
def same_points(monkeypatch, build):
    """Both implementations draw their random points from `_points`."""
    model = build(mask_rule="foreground", transferability=False)
    _between_pixels(model)
    counts = model.criterion.points
    ours = torch.cat([_points(counts.matching), _points(counts.candidates), _points(counts.uniform)])
    monkeypatch.setattr(criterion, "draw_points", lambda seeds, count, device: ours.expand(len(seeds), -1, -1))

    def rand(*shape, device=None):
        return _points(shape[1]).expand(shape).clone() if len(shape) == 3 else torch.empty(*shape).uniform_()

    monkeypatch.setattr(torch, "rand", rand)
    return model


@pytest.fixture(params=[nullcontext, tmt_ext.plain_torch], ids=["kernels", "reference"])
def path(request):
    """The operators' compiled kernels, or plain PyTorch."""
    with request.param():
        yield


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("told", [False, True], ids=["", "labelled"])
@pytest.mark.parametrize("class_weights", [None, (0.5, 2.0, 1.0, 0.0, 3.0)], ids=["", "weighted"])
def test_loss_and_gradients_equal_transformers(same_points, plain_twin, images, labels, told, class_weights):
    """Also where the loss is told that every pixel has a label, and where classes weigh differently."""
    model, twin = weigh_classes(same_points, class_weights), plain_twin(same_points)
    labels = labels.where(labels != 255, 1) if told else labels
    masks, classes = masks_from_labels(labels, model.config.num_labels)
    ours = model(images, masks, classes, labelled=labels != 255 if told else None)
    theirs = twin(images, mask_labels=[mask.float() for mask in masks], class_labels=classes)
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sum(ours.loss_dict.values()), ours.loss.detach(), rtol=1e-5, atol=1e-5)
    ours.loss.backward()
    theirs.loss.backward()
    expected = dict(twin.named_parameters())
    largest = max(parameter.grad.abs().max() for parameter in model.parameters() if parameter.requires_grad)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            limit = 1e-4 * expected[name].grad.abs().max() + 1e-6 * largest  # keys' biases have no gradient but noise
            torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=0, atol=limit.item(), msg=name)


def test_loss_parts_equal_transformers(same_points, plain_twin, images, labels):
    model, twin = same_points, plain_twin(same_points)
    masks, classes = masks_from_labels(labels, model.config.num_labels)
    with torch.no_grad():
        ours = model(images, masks, classes)
        theirs = twin(images, output_auxiliary_logits=True)
        parts = twin.get_loss_dict(
            theirs.masks_queries_logits,
            theirs.class_queries_logits,
            [mask.float() for mask in masks],
            classes,
            theirs.auxiliary_logits,
        )
    assert ours.loss_dict.keys() == parts.keys()
    for name, value in parts.items():
        torch.testing.assert_close(ours.loss_dict[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_losses_equal_transformers_over_twenty_steps(same_points, plain_twin, images, labels):
    model, twin = same_points, plain_twin(same_points)
    masks, classes = masks_from_labels(labels, model.config.num_labels)
    ours = _losses(model, lambda: model(images, masks, classes).loss)
    wanted = [mask.float() for mask in masks]
    theirs = _losses(twin, lambda: twin(images, mask_labels=wanted, class_labels=classes).loss)
    assert theirs[-1] < 0.97 * theirs[0]  # weights have moved
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-4, atol=0)


def _losses(model, loss):
    """Of 20 steps of AdamW."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    found = []
    for _ in range(20):
        optimizer.zero_grad()
        found.append(loss())
        found[-1].backward()
        optimizer.step()
    return [one.item() for one in found]
