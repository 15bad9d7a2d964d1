"""`tmt.predict`: which images are found, what their pictures are called, and that nothing is lost or mixed."""

import json
import math
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import runs
from tests.helpers.reader_model import Reader, encode
from tmt.cli import predict
from tmt.data import CITYSCAPES19, LabelSet, colourise
from tmt.inference.prediction import find_images
from tmt.model import factory as models
from tmt.model import hub
from tmt.settings import TMTSettings

Capture = pytest.CaptureFixture[str]


def classes_of(seed: int, size: tuple[int, int] = (6, 9)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 19, size).astype(np.uint8)


def put(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(encode(classes_of(seed))).save(path, quality=100, subsampling=0, lossless=True)
    return path


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """A model that reads its prediction from the image, in the place of every saved one."""
    model = Reader()
    monkeypatch.setattr(models, "load_model", lambda folder, adapt: model)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return model


def call(tmp_path: Path, *argv: object, out: str = "out") -> int:
    return predict.main([str(tmp_path / "model"), *map(str, argv), f"--out={tmp_path / out}", "--device=cpu"])


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def error_of(capsys: Capture) -> str:
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, lines
    return lines[0]


def names(*paths: object) -> list[str]:
    return [item.name for item in find_images([str(path) for path in paths], Path("nowhere"))]


def test_names_are_kept_below_what_holds_everything(tmp_path: Path) -> None:
    for name in ("a/x.png", "a/deep/x.jpg", "b/x.png", "b/Gr\u00fc\u00dfe 1.JPG", "b/notes.txt", "b/.hidden.png"):
        put(tmp_path / name) if name.endswith(("png", "jpg", "JPG")) else (tmp_path / name).write_text("")
    a, b = tmp_path / "a", tmp_path / "b"
    assert names(a) == ["deep/x.png", "x.png"]
    assert names(a / "x.png") == ["x.png"]
    assert names(a, b) == ["a/deep/x.png", "a/x.png", "b/Gr\u00fc\u00dfe 1.png", "b/x.png"]
    assert names(a / "x.png", b / "x.png") == ["a/x.png", "b/x.png"]
    assert names(a, a / "x.png", a / "deep") == ["deep/x.png", "x.png"]
    assert names(tmp_path / "*" / "x.png") == ["a/x.png", "b/x.png"]
    assert names(tmp_path / "**" / "*.jpg") == ["x.png"]
    assert names(b / "*") == ["Gr\u00fc\u00dfe 1.png", "x.png"]


def test_two_endings_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("x.png", "x.jpg", "y.png"):
        put(tmp_path / name)
    assert names(tmp_path) == ["x.jpg.png", "x.png.png", "y.png"]


def test_relative_paths_links_and_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    put(tmp_path / "real" / "x.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    assert names("real") == names("link") == names("./link/") == ["x.png"]
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real")
    assert predict.main(["model", "real", "--out=out"]) == 2
    assert "loop" in error_of(capsys)


NOTHING = {"nowhere": "no such file", "empty": "must hold", "no*thing": "must match", "": "no such file"}


@pytest.mark.parametrize("path, named", NOTHING.items())
def test_paths_without_images(path: str, named: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty").mkdir()
    assert predict.main(["model", str(tmp_path / path) if path else "", f"--out={tmp_path}/out"]) == 2
    assert named in error_of(capsys) and not (tmp_path / "out").exists()


def test_pictures_show_the_prediction(reader: Reader, tmp_path: Path) -> None:
    put(tmp_path / "x.png", seed=3)
    put(tmp_path / "y.webp", seed=4)
    kinds = "labels,overlay,transferability,confidence"
    assert call(tmp_path, tmp_path / "x.png", tmp_path / "y.webp", "--save", kinds, "--opacity=1") == 0
    out = tmp_path / "out"
    assert len(files(out)) == 2 * 4 + 1
    for name, seed in (("x.png", 3), ("y.png", 4)):
        assert np.array_equal(read(out / "labels" / name), classes_of(seed))
        assert np.array_equal(read(out / "overlay" / name), colourise(classes_of(seed)))
        assert np.isin(read(out / "confidence" / name), (229, 230)).all()  # 0.9 x 255 = 229.5
    heat = read(out / "transferability" / "x.png")
    low, high = (heat[classes_of(3) == i].astype(int) for i in (0, 18))
    assert (low[:, 2] > low[:, 0]).all() and (high[:, 0] > high[:, 2]).all()
    assert call(tmp_path, tmp_path / "x.png", "--opacity=0.5", "--save=overlay", out="half") == 0
    mixed = (encode(classes_of(3)) / 2 + colourise(classes_of(3)) / 2).round()
    assert np.abs(read(tmp_path / "half" / "overlay" / "x.png") - mixed).max() <= 1


def test_windows_scales_and_mirrors_as_in_evaluate(reader: Reader, tmp_path: Path) -> None:
    put(tmp_path / "x.png")
    assert call(tmp_path, tmp_path / "x.png", "--window=4,6", "--stride=2,6", "--scales=1,2", "--flip") == 0
    assert len(reader.seen) == 2 * (2 * 2 + 5 * 3) and set(reader.seen) == {(4, 6)}


def test_colours_are_the_models_own(reader: Reader, tmp_path: Path) -> None:
    palette = np.arange(57, dtype=np.uint8).reshape(19, 3)
    reader.config.id2label = {i: f"thing {i}" for i in range(19)}
    reader.config.palette = palette.tolist()
    put(tmp_path / "x.png")
    assert call(tmp_path, tmp_path / "x.png", "--opacity=1") == 0
    expected = colourise(classes_of(0), LabelSet(tuple(reader.config.id2label.values()), palette))
    assert np.array_equal(read(tmp_path / "out" / "overlay" / "x.png"), expected)


def test_label_ids_are_those_of_cityscapes_only(reader: Reader, tmp_path: Path, capsys: Capture) -> None:
    from cityscapesscripts.helpers.labels import trainId2label

    put(tmp_path / "x.png")
    assert call(tmp_path, tmp_path / "x.png", "--ids=label", "--save=labels") == 0
    expected = np.vectorize(lambda train_id: trainId2label[train_id].id)(classes_of(0))
    assert np.array_equal(read(tmp_path / "out" / "labels" / "x.png"), expected)
    assert models.label_set_of(reader) == CITYSCAPES19
    reader.config.id2label = {i: f"thing {i}" for i in range(19)}
    assert call(tmp_path, tmp_path / "x.png", "--ids=label", out="other") == 2
    assert "thing 0" in error_of(capsys) and not (tmp_path / "other").exists()


def test_transferability_of_a_model_without_one(reader: Reader, tmp_path: Path, capsys: Capture) -> None:
    put(tmp_path / "x.png")
    reader.config.settings = TMTSettings(transferability=False)
    assert call(tmp_path, tmp_path / "x.png", "--save=labels,transferability") == 2
    assert "has no transferability" in error_of(capsys)


def test_what_is_complete_is_kept(reader: Reader, tmp_path: Path, capsys: Capture) -> None:
    for i in range(3):
        put(tmp_path / "in" / f"{i}.png", seed=i)
    argv = (tmp_path / "in", "--save=labels,overlay")
    assert call(tmp_path, *argv) == 0
    first = tmp_path / "out" / "labels" / "0.png"
    first.write_bytes(b"kept as it is")
    (tmp_path / "out" / "overlay" / "0.png").unlink()  # as after a kill between the two pictures of an image
    (tmp_path / "out" / "labels" / "1.png").unlink()
    (tmp_path / "out" / "labels" / ".partial-1.png").write_bytes(b"half")
    reader.seen.clear()
    capsys.readouterr()
    assert call(tmp_path, *argv) == 0
    assert len(reader.seen) == 2 and "2 of 3 images to do" in capsys.readouterr().out
    assert first.read_bytes() == b"kept as it is"
    assert np.array_equal(read(tmp_path / "out" / "labels" / "1.png"), classes_of(1))
    assert not list((tmp_path / "out").rglob(".partial-*")) and len(files(tmp_path / "out")) == 7
    assert call(tmp_path, *argv, "--overwrite") == 0
    assert np.array_equal(read(first), classes_of(0))


@pytest.mark.parametrize("more", [("--ids=label",), ("--flip",), ("--opacity=0.3",), ("other model",)])
def test_settings_are_not_mixed(more: tuple[str], reader: Reader, tmp_path: Path, capsys: Capture) -> None:
    put(tmp_path / "x.png")
    assert call(tmp_path, tmp_path / "x.png") == 0
    before = (tmp_path / "out" / "labels" / "x.png").read_bytes()
    if more == ("other model",):
        (tmp_path / "model" / "model.safetensors").write_bytes(b"other weights")
        more = ()
    put(tmp_path / "y.png")
    assert call(tmp_path, tmp_path / "y.png", *more) == 2
    assert "->" in error_of(capsys) and files(tmp_path / "out" / "labels") == ["x.png"]
    assert call(tmp_path, tmp_path / "x.png", *more, "--overwrite") == 0
    assert ((tmp_path / "out" / "labels" / "x.png").read_bytes() != before) == ("--ids=label" in more)


def test_files_of_others_are_not_overwritten(reader: Reader, tmp_path: Path, capsys: Capture) -> None:
    put(tmp_path / "data" / "images" / "x.png")
    label = put(tmp_path / "data" / "labels" / "x.png", seed=7)
    before = label.read_bytes()
    assert call(tmp_path, tmp_path / "data" / "images", out="data") == 2
    assert str(label) in error_of(capsys) and label.read_bytes() == before
    assert not (tmp_path / "data" / "predict.json").exists()


def test_predictions_are_not_images(reader: Reader, tmp_path: Path) -> None:
    """The folder of the images may be the folder of the predictions, again and again."""
    put(tmp_path / "in" / "x.png")
    for _ in range(2):
        assert call(tmp_path, tmp_path / "in", out="in") == 0
    assert files(tmp_path / "in") == ["labels/x.png", "overlay/x.png", "predict.json", "x.png"]


def broken(folder: Path) -> Iterator[Path]:
    """Files that cannot be segmented."""
    good = put(folder / "good.png")
    (folder / "empty.png").write_bytes(b"")
    (folder / "half.png").write_bytes(good.read_bytes()[:-30])
    (folder / "text.jpg").write_text("not an image")
    Image.new("CMYK", (4, 4)).save(folder / "print.jpg")
    Image.new("F", (4, 4)).save(folder / "floats.tif")
    yield from (folder / name for name in ("empty.png", "half.png", "text.jpg", "print.jpg", "floats.tif"))


def test_images_that_cannot_be_read_are_left_out(reader: Reader, tmp_path: Path, capsys: Capture) -> None:
    bad = list(broken(tmp_path / "in"))
    assert call(tmp_path, tmp_path / "in") == 2
    shown = capsys.readouterr()
    assert all(f"left out: {path}: " in shown.out for path in bad)
    assert shown.err.strip().splitlines()[-1].startswith("error: 5 of 6 images could not be read")
    assert files(tmp_path / "out" / "labels") == ["good.png"]
    for path in bad[1:]:
        path.unlink()
    assert call(tmp_path, tmp_path / "in") == 2
    assert str(bad[0]) in error_of(capsys)
    put(bad[0])
    assert call(tmp_path, tmp_path / "in") == 0
    assert files(tmp_path / "out" / "labels") == ["empty.png", "good.png"]


def test_an_image_that_the_model_cannot_judge_is_named(reader: Reader, tmp_path: Path, capsys: Capture) -> None:
    """Class 0 everywhere would look like a prediction."""
    put(tmp_path / "in" / "a.png")
    put(tmp_path / "in" / "b.png", seed=1)
    reader.spoil(iter((1.0, math.nan)))
    assert call(tmp_path, tmp_path / "in", "--save=labels") == 2
    assert f"error: {tmp_path / 'in' / 'b.png'}: class scores must be finite, got 100% that" in error_of(capsys)
    assert files(tmp_path / "out" / "labels") == ["a.png"]


def test_neighbours_of_one_size_go_through_the_network_together(reader: Reader, tmp_path: Path) -> None:
    """Five images of one size, an unreadable one and one of another size among them: nothing is mixed, nothing lost."""
    for number in range(5):
        put(tmp_path / "in" / f"{number}.png", seed=number)
    (tmp_path / "in" / "1b.png").write_text("no image")
    Image.fromarray(encode(classes_of(9, (9, 6)))).save(tmp_path / "in" / "2b.png")
    batches: list[tuple[int, ...]] = []
    reader.register_forward_pre_hook(
        lambda module, given, named: batches.append(tuple(named["pixel_values"].shape)), with_kwargs=True
    )
    kinds = "labels,overlay,transferability,confidence"
    assert call(tmp_path, tmp_path / "in", "--save", kinds, "--batch=2") == 2  # for 1b.png
    assert batches == [(2, 3, 6, 9), (1, 3, 6, 9), (1, 3, 9, 6), (2, 3, 6, 9)]
    assert call(tmp_path, tmp_path / "in", "--save", kinds, out="alone") == 2
    made = [name for name in files(tmp_path / "alone") if name.endswith(".png")]
    assert len(made) == 6 * 4 and files(tmp_path / "out") == files(tmp_path / "alone")
    assert all((tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes() for name in made)
    assert call(tmp_path, tmp_path / "in", "--save", kinds, "--batch=3") == 2  # no other settings: only 1b.png is left


def test_exif_orientation_is_followed(reader: Reader, tmp_path: Path) -> None:
    picture = Image.fromarray(encode(classes_of(0)))
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned 90 degrees clockwise
    picture.save(tmp_path / "x.png", exif=exif)
    assert call(tmp_path, tmp_path / "x.png") == 0
    assert np.array_equal(read(tmp_path / "out" / "labels" / "x.png"), np.rot90(classes_of(0), -1))


def predicted(argv: list[str], log: Path, variables: dict[str, str] | None = None) -> int:
    os.environ.update(variables or {})
    runs.redirect(log)
    return predict.main(argv)


def test_saved_model(finished: Path, tmp_path: Path, target_root: Path) -> None:
    """With two processes each image is done once; the pictures are those of one process."""
    images = tmp_path / "val"
    shutil.copytree(target_root / "leftImg8bit" / "val", images)
    kinds = "--save=labels,overlay,transferability,confidence"
    argv = [f"{finished}/tmt/model", str(images), kinds, "--device=cpu"]
    assert runs.finish(runs.start(predicted, [*argv, f"--out={tmp_path}/one"], tmp_path / "log")) == 0
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(runs.free_port()), "WORLD_SIZE": "2"}
    started = [
        runs.start(predicted, [*argv, f"--out={tmp_path}/two"], tmp_path / f"log{rank}", {**world, "RANK": str(rank)})
        for rank in range(2)
    ]
    assert runs.finish_all(started) == [0, 0], (tmp_path / "log0").read_text() + (tmp_path / "log1").read_text()
    found = files(tmp_path / "one")
    assert found == files(tmp_path / "two") and len(found) == 3 * 4 + 1
    for name in found:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert read(tmp_path / "one" / found[0]).shape == (48, 96)
    assert json.loads((tmp_path / "one" / "predict.json").read_text())["ids"] == "train"


def predicted_without_room(argv: list[str], log: Path) -> int:
    """As on a disk with room for a kilobyte a file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    runs.redirect(log)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
    return predict.main(argv)


def test_full_disk_is_one_line(finished: Path, tmp_path: Path, target_root: Path) -> None:
    (photo, *_) = sorted((target_root / "leftImg8bit" / "val").rglob("*.png"))
    argv = [f"{finished}/tmt/model", str(photo), f"--out={tmp_path}/out", "--device=cpu"]
    assert runs.finish(runs.start(predicted_without_room, argv, tmp_path / "log")) == 2
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last.startswith("error: ") and f"overlay/{photo.name}: File too large" in last
    assert not list((tmp_path / "out" / "overlay").glob("[!.]*"))


def test_killed_and_called_again(finished: Path, tmp_path: Path, target_root: Path) -> None:
    """Whatever moment it is killed at, what is there is whole, and the next call makes the rest."""
    (photo, *_) = sorted((target_root / "leftImg8bit" / "val").rglob("*.png"))
    (tmp_path / "in").mkdir()
    for i in range(40):
        shutil.copy(photo, tmp_path / "in" / f"{i}.png")
    argv = [f"{finished}/tmt/model", f"{tmp_path}/in", f"--out={tmp_path}/out", "--device=cpu"]
    process = runs.start(predicted, argv, tmp_path / "log")
    runs.wait_for(lambda: len(list((tmp_path / "out").glob("labels/[0-9]*.png"))) >= 5, process)
    process.kill()
    runs.finish(process)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/[0-9]*.png")}
    assert 5 <= len(kept) < 80
    assert runs.finish(runs.start(predicted, argv, tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    made = [read(path) for path in sorted((tmp_path / "out" / "labels").iterdir())]
    assert len(made) == 40 and all(np.array_equal(label, made[0]) for label in made)
    assert len(list((tmp_path / "out" / "overlay").iterdir())) == 40


def test_a_model_of_the_hub_is_known_by_its_weights(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(tmp_path / "model"))
    image, out = put(tmp_path / "a.png"), f"--out={tmp_path / 'out'}"
    assert predict.main(["me/night", str(image), out, "--device=cpu"]) == 0
    assert predict.main([str(tmp_path / "model"), str(image), out, "--device=cpu"]) == 0  # the same weights go on
