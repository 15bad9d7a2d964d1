"""transformers' pipeline on a saved model: the maps of `tmt.predict`, of pictures alone or of several sizes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

from tests.model.conftest import SIZES, SWIN
from tmt.cli import predict
from tmt.model import TMTConfig, TMTForSemanticSegmentation, initialise_from_scratch
from tmt.model.pipeline import padded

PICTURES = [(100, 500), (460, 90), (100, 500), (64, 61)]  # larger than the 384 pixels of transformers' own masks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model whose masks and classes are sharp, so that many classes win, in thin shapes too."""
    torch.manual_seed(2)
    names = {i: f"thing {i}" for i in range(5)}
    config = TMTConfig(**SIZES, backbone_config=dict(SWIN), estimator_hidden=32, id2label=names)
    model = TMTForSemanticSegmentation(config)
    initialise_from_scratch(model)
    with torch.no_grad():
        model.class_predictor.weight.mul_(40)
        *_, last = (part for part in model.modules() if part.__class__.__name__ == "Mask2FormerMLPPredictionHead")
        *_, weight, _ = last.parameters()
        weight.mul_(20)
    saved = tmp_path_factory.mktemp("model")
    model.save_pretrained(saved)
    return saved


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    random, folder = np.random.default_rng(0), tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{i}.png" for i in range(len(PICTURES))]
    for path, size in zip(paths, PICTURES, strict=True):
        lines = random.integers(0, 256, (-(-size[0] // 5), -(-size[1] // 23), 3), dtype=np.uint8)
        Image.fromarray(lines.repeat(5, 0).repeat(23, 1)[: size[0], : size[1]]).save(path)
    return paths


@pytest.fixture(scope="module")
def predicted(folder: Path, pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """The maps of `tmt.predict`."""
    out = tmp_path_factory.mktemp("out")
    argv = [str(folder), str(pictures[0].parent), f"--out={out}", "--save=labels", "--device=cpu"]
    assert predict.main(argv) == 0
    return [np.asarray(Image.open(out / "labels" / path.name)) for path in pictures]


def map_of(segments: list[dict]) -> np.ndarray:
    """The class of each pixel, from one mask for each class."""
    found = np.full(np.asarray(segments[0]["mask"]).shape, 255)
    for part in segments:
        found[np.asarray(part["mask"]) > 0] = int(part["label"].split()[-1])
    return found


@pytest.mark.parametrize("together", [{}, {"batch_size": 2}, {"batch_size": 3}], ids=["alone", "two", "three"])
def test_semantic_maps_are_those_of_predict(folder, pictures, predicted, together):
    apply = pipeline("image-segmentation", model=str(folder))
    for found, expected in zip(apply(list(map(str, pictures)), subtask="semantic", **together), predicted, strict=True):
        assert np.array_equal(map_of(found), expected)
    assert len(np.unique(predicted[0])) > 2
    apply.image_processor.__class__ = Mask2FormerImageProcessorPil  # whose maps lose what is thin
    assert not np.array_equal(map_of(apply(str(pictures[0]), subtask="semantic")), predicted[0])


@pytest.mark.parametrize("subtask", ["panoptic", "instance"])
def test_segments_do_not_depend_on_batch_mates(folder, pictures, subtask):
    apply = pipeline("image-segmentation", model=str(folder))
    options = {"subtask": subtask, "threshold": 0.1, "overlap_mask_area_threshold": 0.0}
    alone = [apply(str(path), **options) for path in pictures]
    together = apply(list(map(str, pictures)), batch_size=4, **options)
    for one, other, size in zip(alone, together, PICTURES, strict=True):
        assert one and [part["label"] for part in one] == [part["label"] for part in other]
        for part, same in zip(one, other, strict=True):
            assert part["score"] == pytest.approx(same["score"], abs=1e-5)
            assert part["mask"].size == size[::-1] and part["mask"].tobytes() == same["mask"].tobytes()


def test_pictures_are_padded_to_one_size():
    items = [
        {"pixel_values": torch.rand(1, 3, *size), "pixel_mask": torch.ones(1, *size), "target_size": [size]}
        for size in ((4, 6), (5, 2))
    ]
    one, other = padded(items)
    assert one["pixel_values"].shape == other["pixel_values"].shape == (1, 3, 5, 6)
    assert torch.equal(other["pixel_values"][..., :2], items[1]["pixel_values"]) and other["target_size"] == [(5, 2)]
    assert one["pixel_mask"][0, :4].all() and one["pixel_mask"].sum() == 24 and other["pixel_mask"].sum() == 10
