"""Class scores of pixels: logits are resized before they become probabilities, alike in every place, in strips."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoImageProcessor, pipeline

from tmt.data import normalise
from tmt.inference.sliding_window import segment
from tmt.model import image_processor, semantic, semantic_scores


def logits(queries=12, classes=5, size=(25, 33), batch=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(4)
    of_classes = torch.randn(batch, queries, classes + 1, generator=generator)
    of_masks = 4 * torch.randn(batch, queries, *size, generator=generator)
    return of_classes.to(dtype), of_masks.to(dtype)


def by_definition(class_logits, mask_logits, size):
    classes = class_logits.softmax(-1)[..., :-1]
    masks = F.interpolate(mask_logits, size, mode="bilinear", align_corners=False).sigmoid()
    return torch.einsum("bqk, bqhw -> bkhw", classes, masks)


@pytest.mark.parametrize("size", [(97, 131), (100, 132), (25, 33), (7, 9), (25, 66), (50, 33), (1, 1), (301, 2)])
@pytest.mark.parametrize("strip", [1, 5000, 1 << 22])
def test_scores_follow_the_definition_in_strips_of_any_height(monkeypatch, size, strip):
    monkeypatch.setattr(semantic, "STRIP", strip)
    given = logits()
    torch.testing.assert_close(semantic_scores(*given, size), by_definition(*given, size), rtol=1e-5, atol=1e-5)


def test_the_model_and_half_precision_follow_the_definition(build, images):
    with torch.no_grad():
        outputs = (model := build())(images)
        found = model.semantic_probabilities(outputs, (97, 131))
    expected = by_definition(outputs.class_queries_logits, outputs.masks_queries_logits, (97, 131))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    half = logits(dtype=torch.bfloat16)
    scores = semantic_scores(*half, (97, 131))
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, by_definition(*(x.float() for x in half), (97, 131)), rtol=1e-5, atol=1e-5)


def test_a_thin_thing_is_kept():
    """One column of a confident mask in another one, which probabilities blurred by the resizing would lose."""
    masks = torch.empty(1, 2, 8, 8)
    masks[0, 0], masks[0, 1] = 1.0, -4.0
    masks[0, 0, :, 4], masks[0, 1, :, 4] = -1.0, 12.0
    classes = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]])
    found = semantic_scores(classes, masks, (32, 32)).argmax(1)
    blurred = F.interpolate(semantic_scores(classes, masks, (8, 8)), (32, 32), mode="bilinear").argmax(1)
    assert found.sum() > blurred.sum() > 0


@pytest.mark.parametrize("strip", [7, 1 << 20])
def test_gradients_are_those_of_the_definition(monkeypatch, strip):
    monkeypatch.setattr(semantic, "STRIP", strip)
    gradients = []
    for function in (semantic_scores, by_definition):
        given = [part.requires_grad_() for part in logits(batch=1, size=(5, 6))]
        function(*given, (11, 13)).square().sum().backward()
        gradients.append([part.grad for part in given])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_no_tensor_is_larger_than_the_scores_or_a_strip():
    """100 masks of 600 x 800 pixels would be 48 million numbers; the scores are 9.1 million."""
    given = logits(queries=100, classes=19, size=(150, 200), batch=1)
    with Largest() as largest:
        semantic_scores(*given, (600, 800))
    assert largest.elements == 19 * 600 * 800 > semantic.STRIP


def test_the_processor_of_a_saved_model_gives_our_maps(build, images, tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    with torch.no_grad():
        outputs = model(images)
    expected = model.semantic_probabilities(outputs, (97, 131))
    found = processor.post_process_semantic_segmentation(outputs, target_sizes=[(97, 131)] * 2)
    assert torch.equal(torch.stack(found), expected.argmax(1))
    scored = processor.post_process_semantic_segmentation(outputs, [(97, 131)] * 2, return_segmentation_scores=True)
    torch.testing.assert_close(scored[1].segmentation_scores, expected[1])
    assert torch.equal(scored[0]["segmentation"], found[0])
    assert [one.shape for one in processor.post_process_semantic_segmentation(outputs)] == [(25, 33)] * 2


def test_sizes_must_be_as_many_as_images():
    outputs = SimpleNamespace(**dict(zip(("class_queries_logits", "masks_queries_logits"), logits(), strict=True)))
    with pytest.raises(ValueError, match=r"target_sizes must be one \(H, W\) per image, 2, got 1"):
        image_processor().post_process_semantic_segmentation(outputs, target_sizes=[(97, 131)])


def test_pipeline_and_predict_give_one_answer(build, tmp_path):
    """On an image larger than 384 x 384, to which transformers' own processor squeezes."""
    build().save_pretrained(tmp_path)
    apply = pipeline("image-segmentation", model=str(tmp_path))

    def with_detail(model, arguments, outputs):
        outputs.class_queries_logits, outputs.masks_queries_logits = logits(size=(100, 4), batch=1)

    apply.model.register_forward_hook(with_detail)
    pixels = np.zeros((400, 13, 3), dtype=np.uint8)
    found = np.full((400, 13), -1)
    for part in apply(Image.fromarray(pixels), subtask="semantic"):
        found[np.array(part["mask"]) > 0] = apply.model.config.label2id[part["label"]]
    expected = segment(apply.model, normalise(pixels)[None]).prediction.numpy()
    assert np.array_equal(found, expected) and len(np.unique(expected)) > 2
