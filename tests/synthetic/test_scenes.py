"""The synthetic scenes: deterministic, well-formed, varied, quick; and `python -m tmt.data make`."""

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tmt.cli.data import main
from tmt.data import CLASSES, IGNORE, open_dataset
from tmt.data.manifest import MANIFEST
from tmt.errors import DataError
from tmt.synthetic import DOMAINS, make, render, render_ids
from tmt.synthetic.spectrum import domain_at

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
        "import hashlib; from tmt.synthetic import render\n"
        "for name in ('bdd100k', 'mapillary'):\n"
        "    image, label = render(name, 0, 7, (48, 96))\n"
        "    print(hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == [digest("bdd100k"), digest("mapillary")]


# Of scenes 7 of seed 0 and 1000002 of seed 3: a digest of the label, and the image's mean in each of 2 x 2 x 3 blocks.
DRAWN = {
    ("cityscapes", 0, 7): (
        "cb94bbe582c86acd",
        [86.07, 90.32, 85.01, 78.47, 84.36, 80.9, 93.78, 93.26, 93.11, 84.81, 84.47, 79.03],
    ),
    ("cityscapes", 3, 1000002): (
        "a918335ea51850bb",
        [144.8, 144.85, 146.03, 106.57, 104.35, 102.39, 139.23, 134.65, 135.19, 118.28, 114.85, 115.04],
    ),
    ("gtav", 0, 7): (
        "11240c358d56031b",
        [94.34, 112.41, 136.43, 87.3, 97.08, 108.33, 83.57, 44.61, 73.96, 74.29, 71.68, 90.39],
    ),
    ("gtav", 3, 1000002): (
        "5fd1aa823671c382",
        [74.58, 138.6, 179.62, 94.65, 139.25, 138.61, 73.76, 59.74, 93.92, 67.68, 57.46, 32.8],
    ),
}


@pytest.mark.parametrize(("name", "seed", "index"), DRAWN)
def test_the_first_two_domains_keep_their_pixels(name, seed, index):
    """Trained figures depend on them. Means, since float arithmetic may round a pixel otherwise on another machine."""
    label_digest, means = DRAWN[name, seed, index]
    image, label = render(name, seed, index, (48, 96))
    assert hashlib.sha256(label.tobytes()).hexdigest()[:16] == label_digest
    np.testing.assert_allclose(blocks(image), means, atol=0.02)


def blocks(image):
    """Means over quarters of an image, by channel."""
    return image.reshape(2, 24, 2, 48, 3).mean(axis=(1, 3)).ravel()


def statistics(name, distance, count=60):
    """What can be said of a domain without its labels: means and deviations of colour, its saturation and its edges."""
    rows = []
    for index in range(count):
        image = render(name, 0, index, (32, 64), distance)[0].astype(np.float32) / 255
        grey = image.mean(-1)
        edges = np.abs(np.diff(grey, axis=0)).mean(), np.abs(np.diff(grey, axis=1)).mean()
        halves = image[:16].mean((0, 1)), image[16:].mean((0, 1))
        rows.append([*halves[0], *halves[1], grey.std(), np.ptp(image, axis=-1).mean(), *edges])
    return np.array(rows)


def gap(left, right):
    """Distance between the means of two sets of statistics, in deviations, the root mean square over statistics."""
    spread = np.sqrt((left.var(0) + right.var(0)) / 2)
    return float(np.sqrt(np.mean(((left.mean(0) - right.mean(0)) / spread) ** 2)))


def test_distance_sets_how_far_domains_are_apart():
    gaps = []
    for distance in (0.0, 0.33, 0.67, 1.0):
        found = [statistics(name, distance) for name in DOMAINS]
        gaps.append(np.mean([gap(a, b) for i, a in enumerate(found) for b in found[:i]]))
    assert gaps[0] < 0.35 and gaps[3] > 1.0, gaps  # at 0 what is left is the chance of 60 scenes
    assert gaps[0] < 0.8 * gaps[1] and gaps[1] < 0.85 * gaps[2] and gaps[2] < 0.9 * gaps[3], gaps


def test_every_two_domains_differ():
    found = {name: statistics(name, 1.0) for name in DOMAINS}
    gaps = {(a, b): gap(found[a], found[b]) for a in DOMAINS for b in DOMAINS if a < b}
    assert all(value > 0.4 for value in gaps.values()), gaps  # twice what chance gives between domains that are alike


def test_a_full_look_is_the_domain_and_none_is_everyones():
    assert domain_at("gtav", 1.0) is DOMAINS["gtav"]
    looks = [replace(domain_at(name, 0.0), name="") for name in DOMAINS]
    facts = {"grass": True, "trucks": True, "plates": False}
    same = [
        replace(
            look,
            street=replace(look.street, grass=facts["grass"]),
            population=replace(look.population, trucks=facts["trucks"], plates=facts["plates"]),
        )
        for look in looks
    ]
    assert all(look == same[0] for look in same)
    with pytest.raises(DataError, match="distance must be in 0..1, got 1.5"):
        domain_at("gtav", 1.5)


def test_synthia_is_seen_from_above_and_lacks_three_classes():
    assert DOMAINS["synthia"].optics.height == (4.0, 10.0)
    found = set(np.unique([render("synthia", 0, index, (48, 96))[1] for index in range(40)]))
    assert not found & {CLASSES.index(name) for name in ("terrain", "truck", "train")}


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
    for arguments in ({"dataset": "kitti"}, {"train": 0}, {"size": (4, 4)}, {"seed": -1}, {"distance": 2}):
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

    monkeypatch.setattr("tmt.synthetic.writer.write_lists", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make("gtav", tmp_path / "scenes", 1, 1, (32, 64), progress=False)
    assert not list(tmp_path.iterdir())


def test_validation_scenes_do_not_depend_on_the_training_set(tmp_path):
    roots = [make("cityscapes", tmp_path / str(train), train, 2, (32, 64), progress=False) for train in (1, 3)]
    first, second = (open_dataset("cityscapes", root, "val") for root in roots)
    np.testing.assert_array_equal(first[1].image, second[1].image)


def test_a_folder_of_another_distance_is_another_one(tmp_path):
    make("gtav", tmp_path, 1, 1, (32, 64), distance=0.5, progress=False)
    assert json.loads((tmp_path / MANIFEST).read_text())["distance"] == 0.5
    np.testing.assert_array_equal(
        open_dataset("gtav", tmp_path, "train")[0].image, render("gtav", 0, 0, (32, 64), 0.5)[0]
    )
    with pytest.raises(DataError, match="must be new, empty"):
        make("gtav", tmp_path, 1, 1, (32, 64), progress=False)


def test_a_folder_made_before_there_was_a_distance_still_counts(made):
    recipe = json.loads((made["gtav"] / MANIFEST).read_text())
    recipe.pop("distance")
    (made["gtav"] / MANIFEST).write_text(json.dumps(recipe))
    assert make("gtav", made["gtav"], 6, 3, (32, 64), seed=1, progress=False) == made["gtav"]


def test_the_picture_of_all_domains_is_one_small_file(tmp_path, capsys):
    path = tmp_path / "domains.png"
    assert main(["picture", "--out", str(path), "--scenes", "2"]) == 0
    with Image.open(path) as file:
        assert file.size == (4 + 2 * 196, 4 + 5 * 114) and path.stat().st_size < 400_000
    assert main(["picture", "--out", str(tmp_path / "no" / "x.png")]) == 2
    assert capsys.readouterr().err.startswith("error: picture: out")


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
    for name, root, place in (("gtav", file / "x", "make"), ("kitti", tmp_path, "dataset")):
        assert main(["make", "--dataset", name, "--root", str(root), "--train", "1", "--val", "1"]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {place}: ") and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
