"""A user's own dataset of three classes: trained, evaluated and predicted by the commands of the README."""

import json
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import runs
from tmt.cli import evaluate, predict, train
from tmt.data import CITYSCAPES19
from tmt.model.factory import PER_CLASS, label_set_of, open_base, open_model, predicts

CLASSES = """id,name,train_id,red,green,blue
10,ground,0,120,90,60
20,wall,1,200,60,60
30,sky,2,90,160,230
99,unlabelled,255,0,0,0
"""
COLOURS = {"day": {10: (110, 100, 90), 20: (190, 90, 80), 30: (140, 190, 240)},
           "night": {10: (30, 30, 40), 20: (90, 40, 60), 30: (10, 15, 50)}}  # fmt: skip


def write_folders(root: Path, domain: str) -> Path:
    """A dataset in the layout images/SPLIT, labels/SPLIT, classes.csv; images JPEG in folders, labels PNG."""
    rng = np.random.default_rng(len(domain))
    root.mkdir(parents=True)
    (root / "classes.csv").write_text(CLASSES)
    for split, count in (("train", 8), ("val", 3)):
        for i in range(count):
            label = np.full((48, 96), 30, dtype=np.uint8)
            label[rng.integers(22, 34) :] = 10
            left = rng.integers(0, 60)
            label[12:40, left : left + 30] = 20
            label[:2] = 99
            colours = np.zeros((256, 3), dtype=np.int64)
            for key, colour in COLOURS[domain].items():
                colours[key] = colour
            image = np.clip(colours[label] + rng.integers(-15, 16, (48, 96, 3)), 0, 255).astype(np.uint8)
            for kind, pixels, suffix in (("images", image, ".jpg"), ("labels", label, ".png")):
                path = root / kind / split / f"street {i % 2}" / f"{i}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return root


README = r"""
python -m tmt.train --config demo --out runs/mine \
    --data.source folders --data.source_root mine/day --data.target folders --data.target_root mine/night
python -m tmt.evaluate runs/mine/tmt/model --dataset folders --root mine/night
python -m tmt.predict runs/mine/tmt/model mine/night/images/val --out runs/mine-predictions
"""
SHORT = "--source.steps 30 --estimator.steps 3 --target.steps 12 --augment.crop [48,96] --pictures 1"
ENTRIES = {"tmt.train": (train, SHORT), "tmt.evaluate": (evaluate, "--out scores"), "tmt.predict": (predict, "")}


def run_commands(folder: Path) -> int:
    """The commands of the README, the training cut short."""
    os.chdir(folder)
    runs.redirect(folder / "log")
    for line in README.replace("\\\n", "").strip().splitlines():
        _, _, module, *argv = shlex.split(line)
        entry, more = ENTRIES[module]
        if code := entry.main([*argv, *shlex.split(more), "--device=cpu"]):
            return code
    return 0


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    for domain in COLOURS:
        write_folders(folder / "mine" / domain, domain)
    assert runs.finish(runs.start(run_commands, folder)) == 0, (folder / "log").read_text()
    return folder


def test_scores_are_of_the_three_classes(done: Path) -> None:
    rows = json.loads((done / "runs" / "mine" / "results.json").read_text())["rows"]
    assert {row["domain"] for row in rows} == {"source folders", "target folders"}
    found = json.loads((done / "scores" / "metrics.json").read_text())
    assert found["classes"] == ["ground", "wall", "sky"] and len(found["iou"]) == 3 and found["miou_16"] is None
    assert sum(found["pixels"]) == 3 * 46 * 96  # two ignored rows in each image
    assert found["miou"] == rows[-1]["last"]["miou"]
    assert rows[0]["last"]["pacc"] > 75, "three colours should be learnt in 30 steps"
    text = (done / "scores" / "scores.md").read_text()
    assert "| wall" in text and "mIoU over all 3" in text and "SYNTHIA" not in text


def test_models_remember_names_and_colours(done: Path) -> None:
    for stage in ("source", "full", "tmt"):
        label_set = label_set_of(open_model(done / "runs" / "mine" / stage / "model"))
        assert label_set.names == ("ground", "wall", "sky")
        assert label_set.palette.tolist() == [[120, 90, 60], [200, 60, 60], [90, 160, 230]]


def test_predictions_keep_folders_and_colours(done: Path) -> None:
    out = done / "runs" / "mine-predictions"
    names = sorted(path.relative_to(out / "labels").as_posix() for path in (out / "labels").rglob("*.png"))
    assert names == ["street 0/0.png", "street 0/2.png", "street 1/1.png"]
    label, overlay = (np.asarray(Image.open(out / kind / names[0])).astype(int) for kind in ("labels", "overlay"))
    image = np.asarray(Image.open(done / "mine" / "night" / "images" / "val" / "street 0" / "0.jpg"))
    colours = np.array([[120, 90, 60], [200, 60, 60], [90, 160, 230]])[label]
    assert label.max() <= 2 and np.abs(overlay - (0.4 * image + 0.6 * colours)).max() <= 0.6


def test_source_and_target_must_have_the_same_classes(
    done: Path, target_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = ["--data.source=folders", f"--data.source_root={done}/mine/day", "--device=cpu", f"--out={tmp_path}/run"]
    assert train.main([*mine, "--data.target=cityscapes", f"--data.target_root={target_root}"]) == 2
    assert "3 (ground, wall, sky) in source folders and 19 (road" in capsys.readouterr().err
    other = write_folders(tmp_path / "other", "night")
    (other / "classes.csv").write_text(CLASSES.replace("wall", "house"))
    assert train.main([*mine, "--data.target=folders", f"--data.target_root={other}"]) == 2
    message = capsys.readouterr().err
    assert "same classes" in message and "house" in message and message.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_source_model_of_other_classes(
    finished: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = [f"--data.source_root={done}/mine/day", f"--data.target_root={done}/mine/night", f"--out={tmp_path}/run"]
    kinds = ["--data.source=folders", "--data.target=folders", "--stages=full", "--device=cpu"]
    assert train.main([*kinds, *roots, f"--source_model={finished}/source/model"]) == 2
    message = capsys.readouterr().err
    assert str(finished) in message and "got 19 (road" in message and not (tmp_path / "run").exists()


def test_base_of_other_classes_gets_a_new_class_predictor(done: Path, finished: Path, tmp_path: Path) -> None:
    """A model of 19 classes as the start for three: everything else is kept, and the run can be repeated."""
    three = label_set_of(open_model(done / "runs" / "mine" / "source" / "model"))
    base = open_model(finished / "source" / "model")
    first, again, other = (
        open_base(finished / "source" / "model", lambda saved: saved, three, seed) for seed in (0, 0, 1)
    )
    assert label_set_of(first) == three and first.class_predictor.weight.shape == (4, 32)
    weights, expected = first.state_dict(), base.state_dict()
    for name, value in expected.items():
        assert name.startswith(PER_CLASS) or torch.equal(weights[name], value), name
    assert torch.equal(first.class_predictor.weight, again.class_predictor.weight)
    assert not torch.equal(first.class_predictor.weight, other.class_predictor.weight)
    assert first.criterion.empty_weight.tolist() == pytest.approx([1, 1, 1, 0.1])
    roots = [f"--data.source_root={done}/mine/day", f"--data.target_root={done}/mine/night", f"--out={tmp_path}/run"]
    roots += [f"--model.base={finished}/source/model"]
    argv = ["--config=demo", "--data.source=folders", "--data.target=folders", "--stages=source", "--device=cpu"]
    argv += ["--source.steps=2", "--source.batch_size=2", "--model.estimator_hidden=16"]
    assert runs.finish(runs.start(runs.train, [*argv, *roots], tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    assert label_set_of(open_model(tmp_path / "run" / "source" / "model")) == three


def test_same_classes_are_recognised(finished: Path) -> None:
    model = open_model(finished / "source" / "model")
    assert predicts(model, CITYSCAPES19)
    model.config.id2label = {i: name.upper().replace(" ", "-") for i, name in enumerate(CITYSCAPES19.names)}
    assert predicts(model, CITYSCAPES19)
    model.config.id2label = {i: f"LABEL_{i}" for i in range(19)}
    assert predicts(model, CITYSCAPES19)
    model.config.id2label = dict(enumerate(reversed(CITYSCAPES19.names)))
    assert not predicts(model, CITYSCAPES19)
