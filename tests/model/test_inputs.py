"""What a model cannot be called with is said in one line; what a trace or a processor would spoil unseen is refused."""

import io

import numpy as np
import pytest
import torch

from tmt.model import image_processor, masks_from_labels

PIXELS = {
    "one image": (
        torch.zeros(3, 64, 64),
        r"must be \(B, 3, H, W\), got \(3, 64, 64\); give one image as",
    ),
    "grey": (torch.zeros(1, 1, 64, 64), r"must be \(B, 3, H, W\), got \(1, 1, 64, 64\); convert images with"),
    "channels last": (torch.zeros(1, 64, 64, 3), r"must be \(B, 3, H, W\), got \(1, 64, 64, 3\); convert images with"),
    "no image": (torch.zeros(0, 3, 64, 64), r"must hold at least one pixel, got \(0, 3, 64, 64\)"),
    "no row": (torch.zeros(1, 3, 0, 64), r"must hold at least one pixel, got \(1, 3, 0, 64\)"),
    "bytes": (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r"must be floating and normalised, got uint8; convert"),
    "numbers": (torch.zeros(1, 3, 64, 64, dtype=torch.int64), r"must be floating and normalised, got int64; convert"),
    "double": (
        torch.zeros(1, 3, 64, 64).double(),
        r"must be float32 as the weights are, got float64; use",
    ),
    "half": (torch.zeros(1, 3, 64, 64).half(), r"must be float32 as the weights are, got float16; use"),
    "list": ([torch.zeros(3, 64, 64)], r"must be a tensor, got list; use torch.stack"),
    "array": (np.zeros((1, 3, 64, 64), np.float32), r"must be a tensor, got ndarray; use torch.stack"),
}


@pytest.fixture(scope="module")
def ready():
    """A model that is only called, built once."""
    from tests.model.conftest import SIZES, SWIN
    from tmt.model import TMTConfig, TMTForSemanticSegmentation

    torch.manual_seed(0)
    return TMTForSemanticSegmentation(TMTConfig(**SIZES, backbone_config=dict(SWIN), estimator_hidden=32)).eval()


@pytest.mark.parametrize(("pixels", "message"), PIXELS.values(), ids=PIXELS)
def test_pixels_that_cannot_be_used_are_named(ready, pixels, message):
    with pytest.raises(ValueError, match=f"^TMTForSemanticSegmentation: pixel_values {message}") as caught:
        ready(pixels)
    assert "\n" not in str(caught.value)


def test_autocast_takes_pixels_of_any_precision(ready, images):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert ready(images.bfloat16()).class_queries_logits.isfinite().all()


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (255, torch.float32, "0 to 255"),
        (255, torch.uint8, "0 to 255"),
        (2, torch.int64, "0 to 2"),
        (-1, torch.float32, "-1 to 1"),
        (float("nan"), torch.float32, "nan to nan"),
    ],
)
def test_masks_of_other_values_are_refused(ready, images, labels, value, dtype, message):
    masks, classes = masks_from_labels(labels, 5)
    masks[1] = masks[1].to(dtype)
    masks[1][0, 3, 5] = value
    masks[1][0, 0, :2] = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=rf"^TMTLoss: mask_labels\[1\] must be in \[0, 1\], got {message}; use the"):
        ready(images, masks, classes)


def test_masks_of_any_dtype_give_the_same_loss(ready, images, labels):
    masks, classes = masks_from_labels(labels, 5)
    with torch.no_grad():
        losses = [
            ready(images, [mask.to(dtype) for mask in masks], classes, sample_seeds=torch.tensor([1, 2])).loss
            for dtype in (torch.bool, torch.uint8, torch.float16, torch.float32, torch.float64)
        ]
    assert all(torch.equal(loss, losses[0]) for loss in losses)


def test_the_saved_processor_pads_masks_with_nothing(ready):
    """transformers' pads them with 255.0, which the loss would take for 255 times a mask."""
    sizes = [(40, 60), (50, 48)]
    random = np.random.default_rng(0)
    truth = [random.integers(0, 3, size) for size in sizes]
    truth[0][:5] = 255
    images = [np.zeros((3, *size), np.uint8) for size in sizes]
    batch = image_processor()(images, segmentation_maps=truth, return_tensors="pt")
    assert batch["pixel_values"].shape == (2, 3, 50, 60)
    for masks, classes, one in zip(batch["mask_labels"], batch["class_labels"], truth, strict=True):
        height, width = one.shape
        inside = torch.stack([torch.from_numpy(one == label) for label in classes.tolist()])
        assert torch.equal(masks[:, :height, :width].bool(), inside)
        assert masks[:, height:].sum() == masks[:, :, width:].sum() == 0
    found = ready(batch["pixel_values"], batch["mask_labels"], batch["class_labels"]).loss
    assert 0 < found < 200


@pytest.fixture
def traced(build, images):
    model = build()
    with torch.no_grad():
        return model, torch.jit.trace(model, images, strict=False, check_trace=False)


@pytest.mark.filterwarnings("ignore")
def test_a_trace_is_right_for_other_images_and_refuses_other_sizes(traced, images):
    model, trace = traced
    file = io.BytesIO()
    torch.jit.save(trace, file)
    file.seek(0)
    other = torch.randn(3, *images.shape[1:])
    for one in (trace, torch.jit.load(file)):
        with torch.no_grad():
            expected = model(other).masks_queries_logits
            torch.testing.assert_close(one(other)["masks_queries_logits"], expected, rtol=1e-4, atol=1e-4)
        for size in ((64, 160), (97, 132), (1, 131)):
            message = rf"must be \(B, C, 97, 131\), the size that was traced, got \[2, 3, {size[0]}, {size[1]}\]; "
            with pytest.raises(Exception, match=message):
                one(torch.zeros(2, 3, *size))


@pytest.mark.filterwarnings("ignore")
def test_a_trace_of_the_loss_is_refused(ready, images):
    class OfLoss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = ready

        def forward(self, pixels, mask, label):
            return self.model(pixels, [mask, mask], [label, label]).loss

    given = (images, torch.ones(1, 97, 131), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="mask_labels must be None under torch.jit.trace"):
        torch.jit.trace(OfLoss(), given, check_trace=False)
