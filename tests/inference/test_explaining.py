"""The picture of superpixels, T and attention."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.runs import TINY_MODEL
from tmt.cli import explain as door
from tmt.data import CITYSCAPES19, normalise
from tmt.inference.attention import attend, follow
from tmt.inference.explaining import COLUMNS, explain
from tmt.inference.look import look
from tmt.model.factory import freeze, new_model
from tmt.settings import TMTSettings
from tmt.settings.arguments import parse
from tmt.visualize.panels import CAPTION_HEIGHT, GAP, PANEL_WIDTH


@pytest.fixture(scope="module")
def model():
    config = parse([f"--model.{name}={value}" for name, value in TINY_MODEL.items()]).model
    made = new_model(config, TMTSettings(cell=2, estimator_hidden=16), seed=0, label_set=CITYSCAPES19)
    freeze(made)
    return made


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)


def names_of(model, image):
    """A class that is predicted, and one that is not."""
    pixels = np.bincount(look(model, image).prediction.ravel(), minlength=19)
    return CITYSCAPES19.names[int(pixels.argmax())], CITYSCAPES19.names[int(pixels.argmin())]


def test_a_sheet_has_all_layers(model, image):
    seen, _ = names_of(model, image)
    sheet = explain(model, image, seen)
    layers = len(follow(model, normalise(image)[None], np.ones((64, 128), bool), 0))
    rows = 1 + 2 * -(-layers // COLUMNS)
    assert sheet.width == COLUMNS * (PANEL_WIDTH + GAP) + GAP
    assert sheet.height > rows * (PANEL_WIDTH // 2 + CAPTION_HEIGHT + GAP)
    assert sheet.tobytes() != explain(model, 255 - image).tobytes()


def test_an_image_is_seen_at_the_height_of_training(model, image, monkeypatch):
    monkeypatch.setattr(model.config, "image_height", 32)
    small = np.array(Image.fromarray(image).resize((64, 32), Image.Resampling.BILINEAR))
    seen = explain(model, image).tobytes()
    monkeypatch.setattr(model.config, "image_height", None)
    assert seen == explain(model, small).tobytes()


def test_a_query_attends_only_where_it_may(model, image):
    pixels, region = normalise(image)[None], np.zeros((64, 128), bool)
    region[:32] = True
    looks = follow(model, pixels, region, 3)
    sizes = [one.weights.shape for one in looks]
    assert sizes[:3] == [(2, 4), (4, 8), (8, 16)] and len({one.query for one in looks}) == 1
    for one in looks:
        assert one.weights.sum() == pytest.approx(1, abs=1e-4) and not one.weights[one.allowed == 0].any()
    last = attend(model, pixels, region, 3)
    assert last.layer == max(one.layer for one in looks if one.weights.shape == (8, 16))


def test_the_command_and_its_errors(model, image, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model.save_pretrained(tmp_path / "model")
    Image.fromarray(image).save(tmp_path / "x.png")
    call = [str(tmp_path / "model"), str(tmp_path / "x.png"), f"--out={tmp_path / 'y.png'}"]
    seen, unseen = names_of(model, image)
    assert door.main([*call, f"--follow={seen}"]) == 0
    assert np.asarray(Image.open(tmp_path / "y.png")).std() > 20
    for name, message in (("boat", "must be one of the model's 19"), (unseen, "must be predicted in the image")):
        assert door.main([*call, f"--follow={name}"]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: class: ") and message in line
    model.config.settings = TMTSettings(cell=2, estimator_hidden=16, transferability=False)
    model.save_pretrained(tmp_path / "plain")
    assert door.main([str(tmp_path / "plain"), *call[1:]]) == 2
    assert "give one of stage tmt" in capsys.readouterr().err
