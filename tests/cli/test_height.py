"""`--data.height`: training at a smaller size, scores at the labels' own, and models that remember it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import runs, scenes
from tmt.cli import evaluate, predict
from tmt.data import normalise
from tmt.inference.sliding_window import at_height, segment
from tmt.model.factory import open_model
from tmt.model.processor import TMTImageProcessor
from tmt.settings import InferenceConfig

HEIGHT = 32  # of scenes that are 48 high


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, source_root: Path, target_root: Path) -> Path:
    """The folder of a run at a smaller size."""
    folder = tmp_path_factory.mktemp("small")
    more = (f"--data.height={HEIGHT}", "--augment.crop=[32,64]", "--stages=source,estimator,tmt")
    argv = runs.arguments(folder / "run", source_root, target_root, *more, steps=6)
    assert runs.finish(runs.start(runs.train, argv, folder / "log")) == 0, (folder / "log").read_text()
    return folder / "run"


def test_models_and_their_image_processors_remember_the_height(small: Path, finished: Path) -> None:
    for stage in ("source", "tmt"):
        assert open_model(small / stage / "model").config.image_height == HEIGHT
    assert open_model(finished / "tmt" / "model").config.image_height is None
    image = Image.fromarray(scenes.draw("target", 0)[0])
    seen = TMTImageProcessor.from_pretrained(small / "tmt" / "model")(image, return_tensors="pt")["pixel_values"]
    assert seen.shape[-2:] == (HEIGHT, 64)
    seen = TMTImageProcessor.from_pretrained(finished / "tmt" / "model")(image, return_tensors="pt")["pixel_values"]
    assert seen.shape[-2:] == (48, 96)


def scored(model: Path, root: Path, out: Path, *more: str) -> dict:
    argv = [str(model), "--dataset=cityscapes", f"--root={root}", "--device=cpu", f"--out={out}", *more]
    torch.set_num_threads(1)
    assert evaluate.main(argv) == 0
    return json.loads((out / "metrics.json").read_text())


def test_scores_are_at_the_size_of_the_labels(small: Path, target_root: Path, tmp_path: Path) -> None:
    found = scored(small / "tmt" / "model", target_root, tmp_path / "a")
    assert sum(found["pixels"]) == 3 * 48 * 96
    rows = json.loads((small / "results.json").read_text())["rows"]
    assert found["iou"] == rows[-1]["last"]["iou"], "as in training"
    same = scored(small / "tmt" / "model", target_root, tmp_path / "b", f"--height={HEIGHT}")
    assert same["iou"] == found["iou"]
    own = scored(small / "tmt" / "model", target_root, tmp_path / "c", "--height=0")
    plain = scored(small / "tmt" / "model", target_root, tmp_path / "d", "--height=48")
    assert own["iou"] == plain["iou"] != found["iou"]


def test_the_network_sees_the_height(small: Path) -> None:
    model = open_model(small / "tmt" / "model").eval()
    pixels = normalise(scenes.draw("target", 5)[0])[None]
    found = segment(model, pixels)
    model.config.image_height = None
    assert torch.equal(found.prediction, segment(model, pixels, InferenceConfig(height=HEIGHT)).prediction)
    assert torch.equal(found.prediction, segment(model, pixels, InferenceConfig(scales=(HEIGHT / 48,))).prediction)
    assert found.prediction.shape == (48, 96)


@pytest.mark.parametrize(
    ("given", "trained", "expected"),
    [(None, None, 1.0), (None, 24, 0.5), (0, 24, 1.0), (96, 24, 2.0), (48, None, 1.0), (None, 0, 1.0)],
)
def test_which_height_counts(given: int | None, trained: int | None, expected: float) -> None:
    inference = InferenceConfig(height=given, scales=(1.0, 1.5))
    assert at_height(inference, trained, 48).scales == (expected, 1.5 * expected)


def test_predictions_have_the_size_of_the_image(small: Path, tmp_path: Path) -> None:
    Image.fromarray(scenes.draw("target", 7)[0]).save(tmp_path / "street.png")
    torch.set_num_threads(1)
    kinds = "--save=labels,transferability,confidence"
    argv = [str(small / "tmt" / "model"), str(tmp_path / "street.png"), f"--out={tmp_path}/out", kinds, "--device=cpu"]
    assert predict.main(argv) == 0
    for kind in ("labels", "transferability", "confidence"):
        assert np.asarray(Image.open(tmp_path / "out" / kind / "street.png")).shape[:2] == (48, 96)
