"""Images of odd kinds and labels without classes, through the commands."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.trees import png, put
from tests.helpers import runs
from tmt.cli import data, predict, train
from tmt.data.files import tell_again

Capture = pytest.CaptureFixture[str]


def write_folders(root: Path, void: tuple[int, ...] = ()) -> Path:
    """Grey pictures of 16 bits with labels of two classes, those of `void` of none."""
    rng = np.random.default_rng(0)
    put(root / "classes.csv", "id,name,train_id\n0,dark,0\n1,light,1\n9,void,255\n")
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            label = np.zeros((48, 96), np.uint8)
            label[rng.integers(10, 40) :] = 1
            image = 12_000 + 40_000 * label.astype(np.uint16) + rng.integers(0, 2000, label.shape).astype(np.uint16)
            put(root / f"images/{split}/{i}.png", png(image, 16, 0))
            put(root / f"labels/{split}/{i}.png", png(label if i not in void else np.full_like(label, 9), 8, 0))
    return root


def command(root: Path, out: Path, *more: str) -> list[str]:
    return [*runs.arguments(out, root, root, "--data.source=folders", "--data.target=folders"), *more]


def odd(folder: Path) -> int:
    """A training on them one image at a time, so that some steps have no label at all, and predictions."""
    runs.redirect(folder / "log")
    root = write_folders(folder / "odd", void=(0, 2))
    one = ("--source.batch_size=1", "--target.batch_size=1", "--stages=source,estimator,full,tmt", "--data.workers=2")
    pictures = [str(folder / "run/tmt/model"), str(root / "images/val"), f"--out={folder}/out", "--save=labels"]
    return train.main(command(root, folder / "run", *one)) or predict.main([*pictures, "--device=cpu"])


def test_sixteen_bit_images_and_labels_without_classes(tmp_path: Path) -> None:
    assert runs.finish(runs.start(odd, tmp_path)) == 0, (tmp_path / "log").read_text()
    assert len(list((tmp_path / "out" / "labels").glob("*.png"))) == 2
    told = [line for line in (tmp_path / "log").read_text().splitlines() if "converted to 8-bit RGB" in line]
    for split in ("train", "val"):
        assert told.count(f"warning: {tmp_path}/odd/images/{split}: 16-bit grey images are converted to 8-bit RGB") == 1
    assert len(told) == 2, told


def test_predictions_of_the_same_picture_in_other_kinds_are_the_same(finished: Path, tmp_path: Path) -> None:
    grey = np.random.default_rng(3).integers(0, 256, (48, 96), dtype=np.uint8)
    rgb = np.stack([grey] * 3, -1)
    put(tmp_path / "in/rgb.png", rgb)
    put(tmp_path / "in/grey.png", png(grey, 8, 0))
    put(tmp_path / "in/deep.png", png(grey.astype(np.uint16) * 257, 16, 0))
    Image.fromarray(np.dstack([rgb, grey])).save(tmp_path / "in/alpha.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "in/palette.png")
    torch.set_num_threads(1)
    tell_again()
    model = str(finished / "source" / "model")
    argv = [model, str(tmp_path / "in"), f"--out={tmp_path}/out", "--save=labels", "--device=cpu"]
    with pytest.warns(UserWarning, match="converted to 8-bit RGB") as told:
        assert predict.main(argv) == 0
    expected = np.asarray(Image.open(tmp_path / "out/labels/rgb.png"))
    for name in ("grey", "deep", "alpha", "palette"):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"out/labels/{name}.png")), expected)
    kinds = sorted(str(one.message).removeprefix(f"{tmp_path}/in: ").split(" images")[0] for one in told)
    assert kinds == ["16-bit grey", "grey", "palette", "with alpha"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_classes_or_without_images(split: str, tmp_path: Path, capsys: Capture) -> None:
    root = write_folders(tmp_path / "odd")
    for label in (root / "labels" / split).iterdir():
        put(label, png(np.full((48, 96), 9, np.uint8), 8, 0))
    assert train.main(command(root, tmp_path / "run")) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"error: {root}, split {split}: labels must give a pixel a class, got 255 alone" in message
    assert data.main(["check", "folders", str(root), "--workers=0", f"--out={tmp_path}/check"]) == 1
    assert f"split {split} must have pixels of a class, got none" in capsys.readouterr().out
    for image in (root / "images" / split).iterdir():
        image.unlink()
    assert train.main(command(root, tmp_path / "run")) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"error: folders: {root}/images/{split} must hold .png" in message and "got none; add images" in message
    assert not (tmp_path / "run").exists()
