"""Padding never matters: an image of a padded batch gives, costs and teaches what it does alone."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

import tmt_ext
from tmt.model import image_processor, masks_from_labels
from tmt.model.padding import NOWHERE, frame_of

SIZES = [(97, 131), (64, 150), (97, 131), (33, 40), (110, 90)]
FRAME = (110, 150)
SEEDS = torch.arange(5) + 7
CLASSES = 5
EVERYTHING = {"output_hidden_states": True, "output_auxiliary_logits": True, "output_attentions": True}


@pytest.fixture
def alone():
    """Images (1, 3, h, w) and labels (1, h, w) of `SIZES`, some pixels of which have none."""
    generator = torch.Generator().manual_seed(5)
    images = [torch.randn(1, 3, *size, generator=generator) for size in SIZES]
    labels = []
    for height, width in SIZES:
        blocks = torch.randint(0, CLASSES, (1, 7, 10), generator=generator)
        blocks[0, 1, 1] = 255
        labels.append(blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :height, :width])
    return images, labels


def padded(parts: list[torch.Tensor], fill: float, size: tuple[int, int] = FRAME) -> torch.Tensor:
    """Maps (1, ..., h, w) in one batch, `fill` below and on the right."""
    frames = [part.new_full((*part.shape[:-2], *size), fill) for part in parts]
    for frame, part in zip(frames, parts, strict=True):
        frame[..., : part.shape[-2], : part.shape[-1]] = part
    return torch.cat(frames)


def mask_of(sizes=SIZES, size=FRAME) -> torch.Tensor:
    return padded([torch.ones(1, *one, dtype=torch.int64) for one in sizes], 0, size)


def flat(value, name=""):
    """Every tensor of an output by name."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {key: tensor for part, one in items for key, tensor in flat(one, f"{name}.{part}").items()}


def inside(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The part of an image's entry (...) in a padded batch that `like` (1, ...) covers, bottom and right cut off."""
    return tensor[tuple(slice(0, side) for side in like.shape[1:])][None]


SETTINGS = {
    "T": {},
    "plain": {"transferability": False},
    "source": {"transfer_features": "source"},
    "bias": {"transfer_mode": "bias"},
    "paper": {"mask_rule": "uncertain", "fallback": "transfer"},
    "grid": {"regions": "grid", "transfer_exclude": "low"},
    "resnet": {"backbone": "resnet"},
}


@pytest.fixture(params=[nullcontext, tmt_ext.plain_torch], ids=["kernels", "reference"])
def path(request):
    """The operators' compiled kernels, or plain PyTorch."""
    with request.param():
        yield


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@torch.no_grad()
def test_an_image_gives_what_it_gives_alone(build, alone, settings):
    """What lies in the padding is of no account; what it gives there is defined."""
    model, images = build(**settings), alone[0]
    found = model(padded(images, 3.0), pixel_mask=mask_of())
    noise = model(padded(images, float("nan")), pixel_mask=mask_of().bool())
    for name, one in flat(found).items():
        assert torch.equal(one, flat(noise)[name]), name
    assert found.masks_queries_logits.shape == (5, 12, 28, 38)
    for i, image in enumerate(images):
        expected = model(image)
        assert expected.mask_sizes is None
        for name, one in flat(expected).items():
            torch.testing.assert_close(inside(flat(found)[name][i], one), one, rtol=1e-5, atol=1e-5, msg=name)
        height, width = found.mask_sizes[i].tolist()
        assert (height, width) == tuple(expected.masks_queries_logits.shape[2:])
        void = found.masks_queries_logits[i].clone()
        void[:, :height, :width] = NOWHERE
        assert (void == NOWHERE).all() and torch.tensor(NOWHERE).sigmoid() < 1e-40
        if found.region_labels is not None:
            assert (found.region_labels[i, -(-height // 2) :] == -1).all()


@torch.no_grad()
def test_everything_that_can_be_asked_for(build, alone):
    """Attention weights are cut as maps, level by level."""
    model, images = build(), alone[0]
    found = flat(model(padded(images, 3.0), pixel_mask=mask_of(), **EVERYTHING))
    for i, image in enumerate(images):
        expected = flat(model(image, **EVERYTHING))
        assert found.keys() == expected.keys() | {".mask_sizes"}
        for name, one in expected.items():
            given = found[name][i]
            if name.startswith(".cross_attentions"):
                stride = (32, 16, 8)[int(name.rpartition(".")[2]) % 3]
                whole, own = ([-(-side // stride) for side in size] for size in (FRAME, SIZES[i]))
                given, one = given.unflatten(-1, whole), one.unflatten(-1, own)
                torch.testing.assert_close(given.sum((-1, -2)), torch.ones(4, 12))
            torch.testing.assert_close(inside(given, one), one, rtol=1e-5, atol=1e-5, msg=name)


@torch.no_grad()
def test_a_given_transferability_is_cut_too(build, alone):
    model, images = build(), alone[0]
    given = torch.rand(5, 14, 19)
    found = model(padded(images, 3.0), pixel_mask=mask_of(), transferability=given)
    expected = model(images[3], transferability=given[3:4, :5, :5])
    torch.testing.assert_close(found.masks_queries_logits[3:4, :, :9, :10], expected.masks_queries_logits)
    with pytest.raises(ValueError, match=r"transferability must be \(14, 19\) for padded images.*got \(7, 9\)"):
        model(padded(images, 3.0), pixel_mask=mask_of(), transferability=given[:, :7, :9])


@torch.no_grad()
def test_without_padding_nothing_changes(build, alone):
    """To the bit, for one call of the backbone; and a batch of one size is cut out and judged at once."""
    model, image = build(), alone[0][0]
    calls = []
    model.model.pixel_level_module.register_forward_hook(lambda module, given, made: calls.append(given[0].shape))
    plain, told = model(image), model(image, pixel_mask=torch.ones(1, 97, 131))
    assert flat(plain).keys() == flat(told).keys()
    assert all(torch.equal(one, flat(told)[name]) for name, one in flat(plain).items())
    calls.clear()
    model(padded([image, image], 3.0), pixel_mask=mask_of(SIZES[:1] * 2))
    assert calls == [(2, 3, 97, 131)]


def gradients(model, loss):
    names = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return dict(zip(names, torch.autograd.grad(loss, names.values()), strict=True))


def check_gradients(found, expected):
    whole = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for name, wanted in expected.items():
        error = (found[name] - wanted).norm() / wanted.norm().clamp(min=1e-3 * whole)
        assert error < 1e-4, f"{name}: gradients differ by {error:.1e}"


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("told", [True, False], ids=["labelled", "background"])
@pytest.mark.parametrize(
    "settings", [{"class_weights": ("LABEL_2=4",)}, {"transferability": False}], ids=["T", "plain"]
)
def test_loss_and_gradients_are_those_of_the_images(build, alone, told, settings, monkeypatch):
    """Against the images one by one, each divided by what the whole batch is divided by."""
    model, (images, labels) = build(**settings), alone
    known = [one != 255 if told else None for one in labels]
    more = {"labelled": padded(known, False)} if told else {}
    masks, classes = masks_from_labels(padded(labels, 255), CLASSES)
    batch = model(padded(images, 3.0), masks, classes, mask_of(), SEEDS, **more)
    weights, normalisers = [], model.criterion._normalisers
    monkeypatch.setattr(model.criterion, "_normalisers", lambda n, w: weights.append((n, w)) or torch.ones(1 + len(w)))
    parts = []
    for i, (image, label, ground) in enumerate(zip(images, labels, known, strict=True)):
        parts.append(model(image, *masks_from_labels(label, CLASSES), None, SEEDS[i : i + 1], labelled=ground))
    total = normalisers(sum(n for n, _ in weights), sum(w for _, w in weights))
    monkeypatch.setattr(model.criterion, "_normalisers", lambda n, w: total)
    losses = [
        model(image, *masks_from_labels(label, CLASSES), None, SEEDS[i : i + 1], labelled=ground).loss
        for i, (image, label, ground) in enumerate(zip(images, labels, known, strict=True))
    ]
    torch.testing.assert_close(batch.loss, sum(losses), rtol=1e-5, atol=1e-5)
    check_gradients(gradients(model, batch.loss), gradients(model, sum(losses)))


def test_a_padded_copy_costs_what_the_image_costs(build, alone):
    """Whatever is in the padding of image and masks, and whatever the padded batch calls labelled there."""
    model, (images, labels) = build(), alone
    masks, classes = masks_from_labels(labels[1], CLASSES)
    expected = model(images[1], masks, classes, None, SEEDS[:1], labelled=labels[1] != 255)
    frame = padded(images[1:2], float("nan"))
    of_frame = [padded([masks[0][None].float()], 255.0)[0]]  # as transformers' processor pads them
    labelled = padded([labels[1] != 255], True)
    found = model(frame, of_frame, classes, mask_of(SIZES[1:2]), SEEDS[:1], labelled=labelled)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-6, atol=0)
    assert found.loss_dict.keys() == expected.loss_dict.keys()
    check_gradients(gradients(model, found.loss), gradients(model, expected.loss))
    torch.manual_seed(3)
    drawn = model(images[1], masks, classes).loss
    torch.manual_seed(3)
    torch.testing.assert_close(model(frame, of_frame, classes, mask_of(SIZES[1:2])).loss, drawn, rtol=1e-6, atol=0)


def resizing_processor():
    """transformers' own, which resizes images, and pads masks with 255."""
    size = {"shortest_edge": 64, "longest_edge": 130}
    return Mask2FormerImageProcessorPil(size=size, size_divisor=0, ignore_index=255)


@pytest.mark.parametrize("make", [image_processor, resizing_processor], ids=["ours", "transformers"])
def test_what_an_image_processor_makes_is_understood(build, make):
    """Images of several sizes with their maps of classes: outputs and loss as of its batches of one."""
    processor, model, random = make(), build(), np.random.default_rng(0)
    images = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((50, 70), (64, 48), (50, 70))]
    maps = [random.integers(0, CLASSES, image.shape[:2]).astype(np.uint8) for image in images]
    maps[0][:9] = 255
    batch = processor(images, segmentation_maps=maps, return_tensors="pt")
    assert not batch["pixel_mask"].all()
    found = model(**batch, sample_seeds=SEEDS[:3])
    losses = []
    for i, (image, labels) in enumerate(zip(images, maps, strict=True)):
        one = processor([image], segmentation_maps=[labels], return_tensors="pt")
        assert one["pixel_mask"].all()
        expected = model(**one, sample_seeds=SEEDS[i : i + 1])
        losses.append(expected.loss_dict["loss_dice"] * len(one["class_labels"][0]))
        for name in ("masks_queries_logits", "class_queries_logits", "transferability"):
            torch.testing.assert_close(inside(found[name][i], expected[name]), expected[name], rtol=1e-5, atol=1e-5)
    dice = sum(losses) / sum(map(len, batch["class_labels"]))
    torch.testing.assert_close(found.loss_dict["loss_dice"], dice, rtol=1e-5, atol=0)


@torch.no_grad()
def test_class_scores_are_those_of_the_image(build, alone):
    """Neither the model's nor the processor's mixes padding into an image's last rows."""
    model, images = build(), alone[0]
    outputs = model(padded(images, 3.0), pixel_mask=mask_of())
    maps = image_processor().post_process_semantic_segmentation(outputs, target_sizes=SIZES)
    scores = model.semantic_probabilities(outputs, (50, 60))
    for i, image in enumerate(images):
        expected = model(image)
        torch.testing.assert_close(scores[i : i + 1], model.semantic_probabilities(expected, (50, 60)))
        assert torch.equal(maps[i], model.semantic_probabilities(expected, SIZES[i]).argmax(1)[0])
    assert [one.shape for one in image_processor().post_process_semantic_segmentation(outputs)][3] == (9, 10)


def holed() -> torch.Tensor:
    mask = mask_of()
    mask[1, 5, 5] = 0
    return mask


BAD = {
    "size": (
        mask_of()[:, :-1],
        r"pixel_mask must be a tensor \(5, 110, 150\) as pixel_values are, got \(5, 109, 150\)",
    ),
    "kind": (mask_of().tolist(), r"pixel_mask must be a tensor \(5, 110, 150\) as pixel_values are, got list"),
    "values": (255 * mask_of(), r"pixel_mask\[0\] must be 0 or 1, got 12707 pixels of other values"),
    "hole": (holed(), r"pixel_mask\[1\] must be 1 in a rectangle .* got 9599 pixels of 1 within 64 x 150; pad images"),
    "elsewhere": (mask_of().flip(2), r"pixel_mask\[0\] must be 1 in a rectangle at the top left"),
    "nothing": (mask_of() * 0, r"pixel_mask\[0\] must be 1 in a rectangle .* got 0 pixels of 1 within 0 x 0"),
}


@pytest.mark.parametrize(("mask", "message"), BAD.values(), ids=BAD)
def test_masks_that_cannot_be_used_are_named(mask, message):
    with pytest.raises(ValueError, match=f"^TMTForSemanticSegmentation: {message}") as caught:
        frame_of(mask, torch.zeros(5, 3, *FRAME))
    assert "\n" not in str(caught.value)


def test_labels_of_another_size_are_named(build, alone):
    model, (images, labels) = build(), alone
    masks, classes = masks_from_labels(padded(labels, 255), CLASSES)
    arguments = padded(images, 0.0), [mask[..., :-1] for mask in masks], classes, mask_of()
    with pytest.raises(ValueError, match=r"mask_labels\[0\] must be of the size of pixel_mask, \(110, 150\), got"):
        model(*arguments)
    void = torch.zeros(5, *FRAME, dtype=torch.bool)
    void[:, -1] = void[:, :, -1] = True  # nothing of any image, but of the padding
    void[4] = True
    with pytest.raises(ValueError, match=r"mask_labels\[0\] must be empty where labelled\[0\] has no pixel"):
        model(arguments[0], masks, *arguments[2:], labelled=void)


@pytest.mark.filterwarnings("ignore")
def test_a_trace_and_an_export_refuse_a_mask(build, images):
    class Masked(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, pixels, mask):
            return self.model(pixels, pixel_mask=mask).class_queries_logits

    given = images, torch.ones(2, 97, 131)
    with pytest.raises(ValueError, match="pixel_mask must be None in a trace or an export"):
        torch.jit.trace(Masked(build()), given, check_trace=False)
    with pytest.raises(Exception, match="pixel_mask must be None in a trace or an export"):
        torch.export.export(Masked(build()), given)
