"""A target that nobody has labelled: trained towards without labels, then labelled where it counts, and trained on."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.test_own_dataset import CLASSES, write_folders
from tests.helpers import runs
from tmt.cli import label, train
from tmt.model.factory import open_model

NIGHT = "--data.source=folders --data.source_root=mine/day --data.target=folders --data.target_root=mine/night"
SHORT = (
    "--config=demo --source.steps=4 --estimator.steps=3 --target.steps=3 --augment.crop=[48,96] --pictures=1 "
    f"--device=cpu --estimator.early_stop=true --estimator.eval_every=3 --estimator.counted=image {NIGHT}"
).split()


def first(folder: Path) -> int:
    """Source and estimator without a label of the target, and the choice of what to label."""
    os.chdir(folder)
    runs.redirect(folder / "log")
    stages = ["--stages=source,estimator", "--data.target_labelled=false", "--out=runs/mine"]
    if code := train.main([*SHORT, *stages]):
        return code
    estimator = "--estimator=runs/mine/estimator/estimator.safetensors"
    argv = ["runs/mine/source/model", "mine/night/images/train", "--budget=20%", "--score=divergence", estimator]
    return label.main([*argv, "--cell=8", "--out=picks", "--device=cpu"])


def second(folder: Path) -> int:
    """All of the model fine-tuned on what was labelled."""
    os.chdir(folder)
    runs.redirect(folder / "log")
    models = ["--source_model=runs/mine/source/model", "--estimator_weights=runs/mine/estimator/estimator.safetensors"]
    return train.main([*SHORT, "--stages=full,tmt", *models, "--out=runs/labelled"])


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unlabelled")
    for domain in ("day", "night"):
        write_folders(folder / "mine" / domain, domain)
    shutil.move(folder / "mine" / "night" / "labels", folder / "known to nobody")
    (folder / "mine" / "night" / "classes.csv").unlink()
    assert runs.finish(runs.start(first, folder)) == 0, (folder / "log").read_text()
    return folder


def test_source_and_estimator_need_no_label_of_the_target(unlabelled: Path) -> None:
    done = json.loads((unlabelled / "runs" / "mine" / "source" / "done.json").read_text())
    assert "target" not in done and done["last"]["miou"] > 0
    done = json.loads((unlabelled / "runs" / "mine" / "estimator" / "done.json").read_text())
    assert done["training_images"]["target"] < 8  # some are held out
    assert "target" not in (unlabelled / "runs" / "mine" / "results.md").read_text()
    (picture,) = (unlabelled / "runs" / "mine" / "pictures").rglob("*.png")
    assert Image.open(picture).width > 0


def test_labels_that_come_back_are_trained_on(unlabelled: Path) -> None:
    night, known = unlabelled / "mine" / "night", unlabelled / "known to nobody"
    with (unlabelled / "picks" / "picks.csv").open(newline="") as file:
        assert {row["predicted"] for row in csv.DictReader(file)} <= {"ground", "wall", "sky"}
    for path in (known / "train").rglob("*.png"):  # a person labels what was asked for, 99 elsewhere
        name = path.relative_to(known / "train")
        mask = unlabelled / "picks" / "masks" / name
        wanted = np.asarray(Image.open(mask)) == 0 if mask.exists() else False
        back = night / "labels" / "train" / name
        back.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.where(wanted, np.asarray(Image.open(path)), 99).astype(np.uint8)).save(back)
    shutil.copytree(known / "val", night / "labels" / "val")
    (night / "classes.csv").write_text(CLASSES)
    assert runs.finish(runs.start(second, unlabelled)) == 0, (unlabelled / "log").read_text()
    for stage in ("full", "tmt"):
        open_model(unlabelled / "runs" / "labelled" / stage / "model")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--stages=source,full"], "stages: full needs labels of the target"),
        (["--stages=estimator", "--estimator.kind=error"], "estimator.kind: error needs labels of the target"),
        (["--stages=source", "--data.target_classes=nothere.csv"], "data.target_classes: is for labels of the target"),
        (["--stages=estimator", "--estimator.counted=labelled"], "estimator.counted: must be image"),
        (["--stages=source", "--data.target_root=null", "--data.source_root=null"], "synthetic scenes have labels"),
    ],
)
def test_what_needs_labels_is_refused(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*SHORT, "--data.target_labelled=false", *argv, f"--out={tmp_path / 'run'}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and message in line
    assert not (tmp_path / "run").exists()
