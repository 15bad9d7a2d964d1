"""Data sets of different classes in one run: class maps and lists on command lines, and their mistakes in one line."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import runs
from tmt.cli import data, evaluate, train
from tmt.data.labels import TABLES
from tmt.model.factory import label_set_of, open_model

Capture = pytest.CaptureFixture[str]
NAMES = ("sky", "drivable", "far object")
COLOURS = ((90, 160, 230), (120, 110, 100), (200, 60, 60))
MAP = "cityscapes_to_idd7"
FOUR = "class,name\nblue,sky\ngrey,drivable\nred,far object\nother,vehicle\n"


def write_folders(root: Path, names: tuple[str, ...]) -> Path:
    """A dataset of one's own of these classes: bands of sky, house and road, each in its colour."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True)
    rows = "".join(f"{i},{name},{i}\n" for i, name in enumerate(names))
    (root / "classes.csv").write_text(f"id,name,train_id\n{rows}")
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            label = np.zeros((48, 96), dtype=np.uint8)
            label[rng.integers(10, 20) :] = 2 % len(names)
            label[rng.integers(25, 40) :] = 1 % len(names)
            image = np.array(COLOURS)[label] + rng.integers(-10, 11, (48, 96, 3))
            for kind, pixels in (("images", image.astype(np.uint8)), ("labels", label)):
                path = root / kind / split / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return root


def command(source: Path, target: Path, out: Path, *more: str) -> list[str]:
    kinds = ("--data.source=folders", "--data.target=cityscapes")
    return [*runs.arguments(out, source, target, *kinds, steps=2), *more]


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("mine") / "mine", ("blue", "grey", "red"))


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two maps to the same three classes, in different orders, and a list."""
    folder = tmp_path_factory.mktemp("maps")
    (folder / "mine.csv").write_text("class,name\nblue,sky\ngrey,drivable\nred,far object\n")
    rows = [line.split(",") for line in (TABLES / "maps" / f"{MAP}.csv").read_text().splitlines()[1:]]
    kept = [f"{row[0]},{row[1] if row[1] in NAMES else ''}\n" for row in rows]
    (folder / "streets.csv").write_text("class,name\n" + "".join(kept))
    (folder / "list.txt").write_text("val/1\ntrain/2\n")
    return folder


def everything(mine: Path, streets: Path, maps: Path, folder: Path) -> int:
    """Train, evaluate with another order of classes, and check; the first exit code that is not 0."""
    os.chdir(folder)
    runs.redirect(folder / "log")
    given = (f"--data.source_classes={maps}/mine.csv", f"--data.target_classes={maps}/streets.csv")
    listed = (f"--data.source_train_list={maps}/list.txt", "--target.images=3", "--stages=source,estimator,tmt")
    scored = ("--dataset=cityscapes", f"--root={streets}", f"--classes={maps}/streets.csv", "--device=cpu")
    return (
        train.main(command(mine, streets, folder / "run", *given, *listed))
        or evaluate.main([str(folder / "run/tmt/model"), *scored, "--out=scores"])
        or data.main(["check", "folders", str(mine), f"--classes={maps}/mine.csv", "--out=check", "--workers=0"])
    )


@pytest.fixture(scope="module")
def done(mine: Path, target_root: Path, maps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done")
    assert runs.finish(runs.start(everything, mine, target_root, maps, folder)) == 0, (folder / "log").read_text()
    return folder


def test_domains_of_different_classes_train_together(done: Path) -> None:
    rows = json.loads((done / "run" / "results.json").read_text())["rows"]
    assert {row["domain"] for row in rows} == {"source folders", "target cityscapes"}
    for stage in ("source", "tmt"):
        assert label_set_of(open_model(done / "run" / stage / "model")).names == NAMES, "the source's order"
    assert "of 2 images" not in (done / "log").read_text()
    assert json.loads((done / "run/source/done.json").read_text())["training_images"] == 2, "those of the list"


def test_evaluation_follows_the_order_of_the_model(done: Path) -> None:
    found = json.loads((done / "scores" / "metrics.json").read_text())
    assert found["classes"] == list(NAMES) and found["evaluated"]["classes"].endswith("streets.csv")
    rows = json.loads((done / "run" / "results.json").read_text())["rows"]
    assert found["iou"] == rows[-1]["last"]["iou"]


def test_checks_are_of_the_classes_of_the_map(done: Path) -> None:
    report = json.loads((done / "check" / "report.json").read_text())
    assert report["clean"] and list(report["splits"]["val"]["classes"]) == list(NAMES)


def refused(argv: list[str], out: Path, capsys: Capture) -> str:
    """The one line with which a training is refused before it writes anything."""
    assert train.main(argv) == 2 and not out.exists()
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


def test_domains_whose_classes_differ_are_refused(
    mine: Path, maps: Path, target_root: Path, tmp_path: Path, capsys: Capture
) -> None:
    given = (f"--data.source_classes={maps}/mine.csv", f"--data.target_classes={MAP}")
    message = refused(command(mine, target_root, tmp_path / "run", *given), tmp_path / "run", capsys)
    assert "got 3 (sky, drivable, far object) in source folders and 7 (drivable, " in message
    assert "3 in common" in message and "only the second: 4 (non-drivable, living thing, vehicle" in message
    assert "--data.source_classes and --data.target_classes" in message
    message = refused(command(mine, target_root, tmp_path / "run"), tmp_path / "run", capsys)
    assert "none in common" in message


def test_scenes_to_be_drawn_are_told_before(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "run"
    message = refused(["--device=cpu", f"--out={out}", f"--data.target_classes={MAP}"], out, capsys)
    assert "19 (road, " in message and "in source gtav and 7 (drivable, " in message and "1 in common" in message


@pytest.mark.parametrize(
    ("setting", "text", "named"),
    [
        ("source_classes", FOUR, "line 5: class must be one of folders, got 'other'"),
        (
            "source_classes",
            "class,name\nblue,sky\ngrey,drivable\n",
            "class map must have a line for each class of folders, got none for red",
        ),
        ("source_train_list", "0\n9\n", "line 2: image must be there, got 9"),
        ("target_val_list", "dusk/9\n", "line 1: image must be there, got dusk/9"),
    ],
)
def test_mistakes_in_maps_and_lists(
    setting: str, text: str, named: str, mine: Path, target_root: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "given").write_text(text)
    more = f"--data.{setting}={tmp_path}/given"
    message = refused(command(mine, target_root, tmp_path / "run", more), tmp_path / "run", capsys)
    assert f"{tmp_path}/given" in message and named in message


def one_class(folder: Path) -> int:
    """A training on a data set of one class, and what else there is to do with it."""
    runs.redirect(folder / "log")
    root = write_folders(folder / "one", ("thing",))
    argv = [*command(root, root, folder / "run"), "--data.target=folders", "--stages=source,estimator,full,tmt"]
    scored = [str(folder / "run/tmt/model"), "--dataset=folders", f"--root={root}", "--device=cpu"]
    return train.main(argv) or evaluate.main(scored)


def test_one_class_works_and_is_warned_of(tmp_path: Path) -> None:
    assert runs.finish(runs.start(one_class, tmp_path)) == 0, (tmp_path / "log").read_text()
    text = (tmp_path / "log").read_text()
    assert "warning: data: thing is the only class, which every prediction meets: mIoU says nothing" in text
    assert "all labels are of class thing" in text
