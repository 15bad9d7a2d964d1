"""The synthetic scenes: deterministic, well-formed, varied, quick; and `python -m tmt.data make`."""

import hashlib
import json
import subprocess
import sys
import time

import numpy as np
import pytest

from tmt.data import CLASSES, IGNORE, open_dataset
from tmt.data.__main__ import main
from tmt.data.synthetic import DOMAINS, make, render, render_ids
from tmt.data.synthetic.writer import MANIFEST
from tmt.errors import DataError

SIZE = (96, 192)


def digest(name, seed=0, index=7, size=(48, 96)):
    image, label = render(name, seed, index, size)
    return hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def scenes():
    """Thirty scenes of each domain."""
    return {name: [render(name, 0, index, SIZE) for index in range(30)] for name in DOMAINS}


def test_another_process_draws_the_same_pixels():
    code = (
        "import hashlib; from tmt.data.synthetic import render\n"
        "for name in ('bdd100k', 'mapillary'):\n"
        "    image, label = render(name, 0, 7, (48, 96))\n"
        "    print(hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == [digest("bdd100k"), digest("mapillary")]


def test_seed_index_and_domain_all_matter():
    digests = {digest("gtav"), digest("gtav", seed=1), digest("gtav", index=8), digest("cityscapes")}
    assert len(digests) == 4


def test_drawing_order_does_not_matter():
    alone = digest("gtav", index=3)
    for index in (9, 1, 3):
        latest = digest("gtav", index=index)
    assert latest == alone


@pytest.mark.parametrize("name", DOMAINS)
def test_scenes_hold_the_classes_they_promise(scenes, name):
    labels = np.stack([label for _, label in scenes[name]])
    assert labels.dtype == np.uint8 and set(np.unique(labels)) <= {*range(len(CLASSES)), IGNORE}
    present = {CLASSES[index]: np.mean([(label == index).sum() >= 8 for label in labels]) for index in range(19)}
    assert sum(share > 0.2 for share in present.values()) >= 16, present
    for small in ("pole", "traffic sign", "traffic light", "person", "rider", "bicycle"):
        assert present[small] > 0.4, present
    assert (labels == IGNORE).mean() < 0.06


@pytest.mark.parametrize("name", DOMAINS)
def test_thin_things_are_two_pixels_wide(scenes, name):
    pole = CLASSES.index("pole")
    widths = []
    for _, label in scenes[name]:
        inside = np.pad((label[20:50] == pole).astype(np.int8), ((0, 0), (1, 1)))
        starts = np.argwhere(np.diff(inside, axis=1) == 1)[:, 1]
        widths += (np.argwhere(np.diff(inside, axis=1) == -1)[:, 1] - starts).tolist()
    assert np.median(widths) >= 2


def test_licence_plates_have_an_id_of_their_own_in_gtav():
    found = {name: any((render_ids(name, 0, index, SIZE)[1] == 34).any() for index in range(10)) for name in DOMAINS}
    assert found == {name: name == "gtav" for name in DOMAINS}


def test_larger_pictures_show_the_same_scene():
    _, small = render("gtav", 0, 5, (48, 96))
    _, large = render("gtav", 0, 5, (192, 384))
    assert (large[2::4, 2::4] == small).mean() > 0.85


@pytest.mark.parametrize(("size", "limit"), [((96, 192), 0.05), ((256, 512), 0.25)])
def test_drawing_is_quick(size, limit):
    render("gtav", 0, 0, size)
    times = []
    for index in range(6):
        start = time.process_time()
        render("gtav", 0, index, size)
        times.append(time.process_time() - start)
    assert min(times) < limit  # seconds of one core; about twice what an idle one takes


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(DataError, match="domain must be one of cityscapes, .*, got 'kitti'"):
        render("kitti", 0, 0)
    with pytest.raises(DataError, match="size must be at least 16 x 16 pixels, got 8 x 32"):
        render("gtav", 0, 0, (8, 32))
    for arguments in ({"dataset": "kitti"}, {"train": 0}, {"size": (4, 4)}, {"seed": -1}):
        with pytest.raises(DataError, match="^make: "):
            make(**{"dataset": "gtav", "root": tmp_path / "x", "train": 1, "val": 1} | arguments)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_made_once_and_never_overwritten(made, tmp_path):
    manifest = made["gtav"] / MANIFEST
    stamp = manifest.stat().st_mtime_ns
    make("gtav", made["gtav"], 6, 3, (32, 64), seed=1, progress=False)
    assert manifest.stat().st_mtime_ns == stamp and json.loads(manifest.read_text())["synthetic"] is True
    with pytest.raises(DataError, match="must be new, empty or made by the same command"):
        make("gtav", made["gtav"], 7, 3, (32, 64), seed=1, progress=False)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="must be new, empty"):
        make("gtav", tmp_path, 1, 1, (32, 64), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_make_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tmt.data.synthetic.writer.write_lists", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make("gtav", tmp_path / "scenes", 1, 1, (32, 64), progress=False)
    assert not list(tmp_path.iterdir())


def test_validation_scenes_do_not_depend_on_the_training_set(tmp_path):
    roots = [make("cityscapes", tmp_path / str(train), train, 2, (32, 64), progress=False) for train in (1, 3)]
    first, second = (open_dataset("cityscapes", root, "val") for root in roots)
    np.testing.assert_array_equal(first[1].image, second[1].image)


def test_command_line_makes_a_dataset(tmp_path, capsys):
    root = tmp_path / "deep" / "scenes"
    sizes = ["--train", "2", "--val", "1", "--size", "32", "64", "--seed", "3"]
    assert main(["make", "--dataset", "cityscapes", "--root", str(root), *sizes]) == 0
    assert capsys.readouterr().out.strip() == str(root)
    np.testing.assert_array_equal(
        open_dataset("cityscapes", root, "train")[1].image, render("cityscapes", 3, 1, (32, 64))[0]
    )


def test_command_line_says_in_one_line_what_is_wrong(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    for name, root in (("gtav", file / "x"), ("kitti", tmp_path)):
        assert main(["make", "--dataset", name, "--root", str(root), "--train", "1", "--val", "1"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: make: ") and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
