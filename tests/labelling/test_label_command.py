"""`tmt.label`: what it writes fits together, nothing is lost, and what cannot be is said in a line."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.draw import polygon2mask

from tests.helpers import scenes
from tests.helpers.runs import TINY_MODEL
from tmt.cli.label import main
from tmt.data import CITYSCAPES19, open_dataset
from tmt.labelling import scoring
from tmt.labelling.writing import overlay
from tmt.model.estimator import new_estimator
from tmt.model.factory import new_model, save_estimator
from tmt.settings import EstimatorKind, RegionSettings, TMTSettings, values_of
from tmt.settings.arguments import parse
from tmt.visualize.drawing import BORDER_COLOUR

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model` of stage tmt, `plain` without T, estimators, and a dataset of the layout cityscapes."""
    base = tmp_path_factory.mktemp("label")
    config = parse([f"--model.{name}={value}" for name, value in TINY_MODEL.items()]).model
    regions = RegionSettings(**(values_of(config, RegionSettings)))
    for name, on in (("model", True), ("plain", False)):
        settings = TMTSettings(**values_of(config, RegionSettings), transferability=on)
        new_model(config, settings, seed=0, label_set=CITYSCAPES19).save_pretrained(base / name)
    kinds: tuple[EstimatorKind, ...] = ("domain", "conditional")
    for kind in kinds:
        save_estimator(new_estimator(kind, 32, regions, 19), regions, base / f"{kind}.safetensors", kind)
    scenes.write(base / "data", "target", train=4, val=2)
    return base


def images_of(places: Path) -> Path:
    return places / "data" / "leftImg8bit" / "train"


def call(places: Path, out: Path, *more: str, data: Path | None = None, model: str = "plain") -> int:
    where = images_of(places) if data is None else data
    return main([str(places / model), str(where), f"--out={out}", "--cell=8", "--device=cpu", *more])


def dataset_call(places: Path, out: Path, *more: str) -> int:
    return call(places, out, "--dataset=cityscapes", *more, data=places / "data")


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "picks.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def mask_of(out: Path, name: str) -> np.ndarray:
    values = np.asarray(Image.open(out / "masks" / f"{name}.png"))
    assert values.dtype == np.uint8 and set(np.unique(values)) <= {0, 255}
    return values == 0


def error_of(capsys: Capture) -> str:
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, lines
    return lines[0]


def drawn(annotation: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    (points,) = annotation["segmentation"]
    return polygon2mask(size, np.array(points, dtype=float).reshape(-1, 2)[:, ::-1] - 0.5)


def test_all_that_is_written_says_the_same(places: Path, tmp_path: Path, capsys: Capture) -> None:
    assert call(places, tmp_path, "--budget=10%", "--score=ripu") == 0
    rows, coco = rows_of(tmp_path), json.loads((tmp_path / "picks.json").read_text())
    assert [int(row["rank"]) for row in rows] == list(range(1, len(rows) + 1))
    values = [float(row["score"]) for row in rows]
    assert values == sorted(values, reverse=True)
    total = 4 * scenes.HEIGHT * scenes.WIDTH
    picked = sum(int(row["pixels"]) for row in rows)
    assert 0.1 * total - 150 < picked <= 0.1 * total
    sizes, paths = {}, {}
    for image in coco["images"]:
        assert (images_of(places) / image["file_name"]).is_file()
        sizes[image["id"]], paths[image["id"]] = (image["height"], image["width"]), image["file_name"]
    names = {category["id"]: category["name"] for category in coco["categories"]}
    assert names == dict(enumerate(CITYSCAPES19.names, start=1))
    assert len(coco["annotations"]) == len(rows)
    masks = {identity: np.zeros(size, bool) for identity, size in sizes.items()}
    for row, annotation in zip(rows, coco["annotations"], strict=True):
        own = drawn(annotation, sizes[annotation["image_id"]])
        x, y, width, height = annotation["bbox"]
        assert own.sum() == annotation["area"] == int(row["pixels"])
        assert [x, y, width, height] == [int(row[key]) for key in ("x", "y", "width", "height")]
        assert own[y : y + height, x : x + width].sum() == own.sum() and own[y].any() and own[:, x].any()
        assert paths[annotation["image_id"]] == f"{row['image']}.png"
        assert names[annotation["category_id"]] == row["predicted"]
        assert not (masks[annotation["image_id"]] & own).any()
        masks[annotation["image_id"]] |= own
    for identity, mask in masks.items():
        name = paths[identity].removesuffix(".png")
        assert (mask_of(tmp_path, name) == mask).all()
        shown = np.asarray(Image.open(tmp_path / "overlays" / f"{name}.jpg"))
        assert shown.shape == (6 * scenes.HEIGHT, 6 * scenes.WIDTH, 3)
    page = (tmp_path / "index.html").read_text()
    assert all(f"overlays/{path.removesuffix('.png')}.jpg" in page for path in paths.values())
    assert "http" not in page and f"{picked} of {total}" in page
    assert f"{len(rows)} regions in {len(masks)} images of 4" in capsys.readouterr().out


def test_another_choice_runs_no_model_and_leaves_nothing_behind(
    places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert call(places, tmp_path, "--budget=100%", "--score=random") == 0
    assert len(list(tmp_path.glob("masks/**/*.png"))) == 4
    assert call(places, tmp_path, "--budget=1") == 2
    assert "holds picks already" in error_of(capsys)

    def fail(*args: object) -> None:
        raise AssertionError("the model was run again")

    monkeypatch.setattr(scoring, "see", fail)
    assert call(places, tmp_path, "--budget=1", "--overwrite=true") == 0
    (row,) = rows_of(tmp_path)
    assert [path.stem for path in tmp_path.glob("masks/**/*.png")] == [Path(row["image"]).name]
    assert [path.stem for path in tmp_path.glob("overlays/**/*.jpg")] == [Path(row["image"]).name]
    with pytest.raises(AssertionError, match="run again"):
        call(places, tmp_path, "--budget=1", "--overwrite=true", "--flip=true")


def test_it_goes_on_where_it_was_stopped(places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = scoring.see, []

    def stopped(*args: Any) -> Any:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(args)
        return real(*args)

    monkeypatch.setattr(scoring, "see", stopped)
    assert call(places, tmp_path, "--budget=5") == 130
    assert not (tmp_path / "picks.csv").exists()
    seen.clear()
    monkeypatch.setattr(scoring, "see", lambda *args: (seen.append(args), real(*args))[1])
    assert call(places, tmp_path, "--budget=5") == 0
    assert len(seen) == 2 and len(rows_of(tmp_path)) == 5
    assert call(places, tmp_path / "whole", "--budget=5") == 0
    assert (tmp_path / "whole" / "picks.csv").read_bytes() == (tmp_path / "picks.csv").read_bytes()


def test_revealed_labels_are_a_dataset(places: Path, tmp_path: Path) -> None:
    assert dataset_call(places, tmp_path, "--budget=10%", "--reveal=true") == 0
    truth = open_dataset("cityscapes", places / "data", "train")
    found = open_dataset("folders", tmp_path / "dataset", "train")
    assert found.label_set == truth.label_set and set(found.names) <= set(truth.names)
    labelled = 0
    for sample in (found[i] for i in range(len(found))):
        original = truth[truth.names.index(sample.name)]
        mask = mask_of(tmp_path, sample.name)
        assert (sample.image == original.image).all() and mask.any()
        assert (sample.label == np.where(mask, original.label, 255)).all()
        labelled += mask.sum()
    assert labelled == sum(int(row["pixels"]) for row in rows_of(tmp_path))
    val, old = (
        open_dataset(*where, "val") for where in (("folders", tmp_path / "dataset"), ("cityscapes", places / "data"))
    )
    assert val.names == old.names and all((val[i].label == old[i].label).all() for i in range(2))


def test_a_second_round_leaves_labels_as_they_are(places: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert dataset_call(places, first, "--budget=10%", "--reveal=true") == 0
    labels = f"--labelled={first / 'dataset' / 'labels' / 'train'}"
    assert dataset_call(places, second, "--budget=10%", "--reveal=true", labels) == 0
    once = {(row["image"], row["region"]) for row in rows_of(first)}
    assert once.isdisjoint({(row["image"], row["region"]) for row in rows_of(second)})
    truth = open_dataset("cityscapes", places / "data", "train")
    found = open_dataset("folders", second / "dataset", "train")
    for sample in (found[i] for i in range(len(found))):
        masks = [
            mask_of(out, sample.name) for out in (first, second) if (out / "masks" / f"{sample.name}.png").exists()
        ]
        known = np.any(masks, axis=0)
        assert (sample.label == np.where(known, truth[truth.names.index(sample.name)].label, 255)).all()


def test_whole_images(places: Path, tmp_path: Path) -> None:
    assert call(places, tmp_path, "--budget=2", "--score=images", "--images_by=ripu") == 0
    rows = rows_of(tmp_path)
    assert len(rows) == 2 and all(mask_of(tmp_path, row["image"]).all() for row in rows)
    coco = json.loads((tmp_path / "picks.json").read_text())
    assert [one["segmentation"] for one in coco["annotations"]] == [[[0, 0, 96, 0, 96, 48, 0, 48]]] * 2


@pytest.mark.parametrize(
    ("score", "model", "estimator"),
    [
        ("divergence", "model", None),
        ("divergence", "plain", "domain"),
        ("divergence", "plain", "conditional"),
        ("conditional", "plain", "conditional"),
        ("conditional_entropy", "plain", "conditional"),
    ],
)
def test_scores_that_need_an_estimator(
    score: str, model: str, estimator: str | None, places: Path, tmp_path: Path
) -> None:
    more = [] if estimator is None else [f"--estimator={places / estimator}.safetensors"]
    assert call(places, tmp_path, "--budget=5", f"--score={score}", *more, model=model) == 0
    assert all(0 < float(row["score"]) < 1 for row in rows_of(tmp_path))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--budget=lots"], "budget: must be a share of all pixels such as 2.2%"),
        (["--budget=0.001%"], "budget: must hold the first region"),
        (["--budget=5", "--reveal=true"], "reveal: needs a dataset"),
        (["--budget=5", "--score=divergence"], "score: divergence needs an estimator"),
        (["--budget=5", "--score=conditional", "--estimator={}/domain.safetensors"], "of kind conditional, got domain"),
        (["--budget=5", "--estimator={}/domain.safetensors"], "estimator: is for the scores divergence"),
        (["--budget=5", "--score=divergence", "--estimator={}/none"], "cannot be used as transferability estimator"),
        (["--budget=5", "--labelled={}/data"], "must hold label maps named as the images"),
        (["--budget=5", "--labelled={}/none"], "must be a folder of label maps, got no such folder"),
        (["--budget=" + "9" * 5000], "budget: must be a share of all pixels"),
        (["--budget=5", "--score=best"], "score: must be one of random, entropy, ripu"),
    ],
)
def test_mistakes_end_in_a_line(argv: list[str], message: str, places: Path, tmp_path: Path, capsys: Capture) -> None:
    assert call(places, tmp_path, *(word.replace("{}", str(places)) for word in argv)) == 2
    assert message in error_of(capsys)
    assert not (tmp_path / "picks.csv").exists()


def test_folders_and_labels_that_cannot_be_used(places: Path, tmp_path: Path, capsys: Capture) -> None:
    assert call(places, tmp_path / "out", "--budget=5", data=tmp_path / "nowhere") == 2
    assert "must be a folder of images" in error_of(capsys)
    name = next(images_of(places).rglob("*.png")).relative_to(images_of(places))
    (tmp_path / "labels" / name.parent).mkdir(parents=True)
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "labels" / name)
    assert call(places, tmp_path / "out", "--budget=5", f"--labelled={tmp_path / 'labels'}") == 2
    assert "label must have the image's size (48, 96), got (5, 5)" in error_of(capsys)


def test_what_is_not_ours_is_never_replaced(places: Path, tmp_path: Path, capsys: Capture) -> None:
    for name in ("masks/x.png", "dataset/x.png", "index.html", "picks.csv"):
        out = tmp_path / name.replace("/", " ")
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("mine")
        assert call(places, out, "--budget=5", "--overwrite=true") == 2
        assert "exists and was not made by this command" in error_of(capsys)
        assert [path for path in out.rglob("*") if path.is_file()] == [out / name]
    out = tmp_path / "out"
    assert dataset_call(places, out, "--budget=5", "--reveal=true") == 0
    data = out / "dataset"
    assert call(places, out, "--budget=5", "--overwrite=true", "--dataset=folders", data=data) == 2
    assert "must not be replaced while it is read" in error_of(capsys)
    labels = f"--labelled={data / 'labels' / 'train'}"
    assert dataset_call(places, out, "--budget=5", "--overwrite=true", "--reveal=true", labels) == 2
    assert "must not be replaced while it is read" in error_of(capsys)
    (tmp_path / "important.png").write_text("mine")
    rows = (out / "picks.csv").read_text()
    (out / "picks.csv").write_text(rows.replace(rows_of(out)[0]["image"], "../../important"))
    assert call(places, out, "--budget=5", "--overwrite=true") == 0
    assert (tmp_path / "important.png").read_text() == "mine" and not data.exists()


@pytest.mark.parametrize("where", ["dataset/labels/train", "index.html"])
def test_a_choice_that_failed_half_way_is_made_again(
    where: str, places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of an interrupted choice stays, and the same command goes on."""

    def fail(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tmt.labelling.revealing._put" if "dataset" in where else "tmt.labelling.writing.page", fail)
        assert dataset_call(places, tmp_path, "--budget=100%", "--reveal=true", "--score=random") == 130
    assert len(list(tmp_path.glob("masks/**/*.png"))) == 4 and not (tmp_path / "picks.csv").exists()
    assert dataset_call(places, tmp_path, "--budget=1", "--reveal=true", "--score=random") == 0
    assert len(list(tmp_path.glob("masks/**/*.png"))) == len(rows_of(tmp_path)) == 1
    assert len(open_dataset("folders", tmp_path / "dataset", "train")) == 1


def test_its_own_pictures_are_no_images(places: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i, path in enumerate(sorted(images_of(places).rglob("*.png"))):
        (images / f"{i}.png").write_bytes(path.read_bytes())
    (tmp_path / "link").symlink_to(images)
    for out in (images / "picks", images / "more", tmp_path / "link" / "third", images):
        assert call(places, out, "--budget=100%", "--score=random", data=images) == 0
        assert {row["image"] for row in rows_of(out)} == {"0", "1", "2", "3"}


def test_earlier_labels_are_read_by_the_table_of_their_dataset(places: Path, tmp_path: Path, capsys: Capture) -> None:
    """Ids of a dataset of one's own: not those of training, and with an ignored one of its own."""
    name = next(images_of(places).rglob("*.png")).relative_to(images_of(places))
    path = tmp_path / "own" / "labels" / "train" / name
    path.parent.mkdir(parents=True)
    known = np.full((scenes.HEIGHT, scenes.WIDTH), 99, np.uint8)
    known[:, :40] = 33
    Image.fromarray(known).save(path)
    labels = f"--labelled={tmp_path / 'own' / 'labels' / 'train'}"
    assert call(places, tmp_path / "refused", "--budget=100%", labels) == 2
    assert "label must hold training ids 0..18 or 255, got 33" in error_of(capsys)
    rows = [f"{i + 25},{'tarmac' if i == 0 else one},{i}" for i, one in enumerate(CITYSCAPES19.names)]
    table = tmp_path / "own" / "classes.csv"
    table.write_text("\n".join(["id,name,train_id", *rows]) + "\n")
    assert call(places, tmp_path / "refused", "--budget=100%", labels) == 2
    assert "must have the model's classes" in error_of(capsys)
    rows = [f"{i + 25},{one},{i}" for i, one in reversed(list(enumerate(CITYSCAPES19.names)))]
    table.write_text("\n".join(["id,name,train_id", *rows, "99,nobody knows,255"]) + "\n")
    assert call(places, tmp_path / "out", "--budget=100%", labels) == 0
    mask = mask_of(tmp_path / "out", name.with_suffix("").as_posix())
    assert not mask[:, :40].any() and mask[:, 60:].all()


def test_a_dataset_without_val_and_one_whose_val_is_broken(places: Path, tmp_path: Path, capsys: Capture) -> None:
    assert dataset_call(places, tmp_path / "first", "--budget=5", "--reveal=true") == 0
    data = tmp_path / "first" / "dataset"
    more = ("--dataset=folders", "--budget=5", "--reveal=true")
    next((data / "labels" / "val").rglob("*.png")).unlink()
    assert call(places, tmp_path / "second", *more, data=data) == 2
    assert "file must exist" in error_of(capsys)
    (data / "images" / "val").rename(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="the dataset has no split val"):
        assert call(places, tmp_path / "second", *more, data=data) == 0
    assert not (tmp_path / "second" / "dataset" / "images" / "val").exists()


def test_names_and_images_that_cannot_be_used(places: Path, tmp_path: Path, capsys: Capture) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / f"{'a' * 240}.png")
    assert call(places, tmp_path / "out", "--budget=1", data=tmp_path) == 2
    assert "name must have at most 200 bytes, got 240" in error_of(capsys)
    small = tmp_path / "small"
    small.mkdir()
    Image.new("RGB", (20, 20)).save(small / "a.png")
    assert call(places, tmp_path / "out", "--budget=1", data=small) == 2
    assert "small/a.png: image must be larger, got 20x20 pixels" in error_of(capsys)


def test_a_turned_picture_is_labelled_as_its_label_lies(places: Path, tmp_path: Path) -> None:
    image, label = scenes.draw("target", 7)
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind / "train").mkdir(parents=True)
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.fromarray(image).save(tmp_path / "data" / "images" / "train" / "a.jpg", exif=tags, quality=95)
    train_ids = np.zeros_like(label)
    Image.fromarray(train_ids).save(tmp_path / "data" / "labels" / "train" / "a.png")
    rows = [f"{i},{one},{i}" for i, one in enumerate(CITYSCAPES19.names)]
    (tmp_path / "data" / "classes.csv").write_text("\n".join(["id,name,train_id", *rows]) + "\n")
    more = ("--dataset=folders", "--budget=20%", "--reveal=true")
    with pytest.warns(UserWarning):
        assert call(places, tmp_path / "out", *more, data=tmp_path / "data") == 0
    assert mask_of(tmp_path / "out", "a").shape == label.shape
    with pytest.warns(UserWarning, match="taken as stored"):
        (sample,) = (open_dataset("folders", tmp_path / "out" / "dataset", "train")[0],)
    assert ((sample.label == 0) == mask_of(tmp_path / "out", "a")).all()


@pytest.mark.parametrize(
    ("size", "shown"), [((40, 100), (240, 600)), ((700, 500), (700, 500)), ((30, 5000), (6, 1024))]
)
def test_an_overlay_shows_the_picks_and_little_else(size: tuple[int, int], shown: tuple[int, int]) -> None:
    """Picks in their own colours within a border, the rest pale; small images are enlarged, large ones shrunk."""
    image = np.full((*size, 3), 40, np.uint8)
    regions = np.zeros(size, dtype=np.int64)
    regions[:, size[1] // 2 :] = 1
    drawn = overlay(image, regions, regions == 1)
    assert drawn.shape == (*shown, 3)
    left, right = drawn[:, : shown[1] // 2 - 2], drawn[:, shown[1] // 2 + 2 :]
    assert (left == 40 // 3 + 150).all() and (right == 40).all()
    assert (drawn[:, shown[1] // 2] == BORDER_COLOUR).all()
