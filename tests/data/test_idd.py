"""IDD with each of its kinds of labels, IDD-Lite, and LabelMeFacade."""

import json

import numpy as np
import pytest

from tests.data.trees import every_id, palette_label, picture, png, put
from tmt.data import CITYSCAPES19, IDD, IGNORE, IDDLite, LabelMeFacade, open_dataset
from tmt.data.check import check_dataset
from tmt.data.labels import name_ids, table_colours
from tmt.errors import DataError

CLASSES = np.where(every_id(20) == 19, IGNORE, every_id(20)).astype(np.uint8)
LEVEL3 = np.where(every_id(27) == 26, IGNORE, every_id(27)).astype(np.uint8)


def idd(root, split="train", name="201/frame0029", suffix="png"):
    return put(root / f"leftImg8bit/{split}/{name}_leftImg8bit.{suffix}", picture())


def label(root, kind, content, split="train", name="201/frame0029"):
    return put(root / f"gtFine/{split}/{name}_gtFine_{kind}", content)


def polygons(*objects):
    drawn = [{"label": name, "polygon": points, "deleted": int(name == "sky")} for name, points in objects]
    return json.dumps({"imgHeight": 20, "imgWidth": 40, "objects": drawn})


def test_the_nineteen_classes_of_cityscapes(tmp_path):
    idd(tmp_path)
    idd(tmp_path, name="0/x1", suffix="jpg")
    for name in ("201/frame0029", "0/x1"):
        label(tmp_path, "labelcsTrainIds.png", png(CLASSES, 8, 0), name=name)
        label(tmp_path, "labellevel3Ids.png", png(LEVEL3, 8, 0), name=name)
        label(tmp_path, "polygons.json", polygons(), name=name)
    dataset = open_dataset("idd", tmp_path, "train")
    assert dataset.names == ["0/x1", "201/frame0029"] and dataset.label_set is CITYSCAPES19
    np.testing.assert_array_equal(dataset[1].label, CLASSES)


def test_the_twenty_six_of_its_benchmark(tmp_path):
    idd(tmp_path)
    path = label(tmp_path, "labellevel3Ids.png", png(LEVEL3, 8, 0))
    dataset = IDD(tmp_path)
    assert len(dataset.label_set) == 26 and dataset.label_set.names[12:14] == ("vehicle fallback", "curb")
    np.testing.assert_array_equal(dataset[0].label, LEVEL3)
    coarse = open_dataset("idd", tmp_path, "train", classes="idd_to_idd7")
    expected = np.repeat([0, 1, 2, 3, 4, 5, 6], [2, 2, 2, 7, 9, 3, 1])
    np.testing.assert_array_equal(coarse[0].label, np.where(LEVEL3 == IGNORE, IGNORE, expected[LEVEL3 % 26]))
    put(path, png(every_id(30), 8, 0))
    with pytest.raises(
        DataError, match=rf"{path}: label ids .* got 26, 27, 28, 29 .*0-25 and 255; .*another --id-type"
    ):
        dataset[0]


def test_polygons_are_drawn_one_over_the_other(tmp_path):
    idd(tmp_path)
    square = [[0, 0], [19, 0], [19, 9], [0, 9]]
    objects = [("road", [[0, 0], [39, 0], [39, 19], [0, 19]]), ("persongroup", square), ("car", [[1.0, 1.0], [2, 2]])]
    label(tmp_path, "polygons.json", polygons(*objects, ("sky", square)))
    expected = np.zeros((20, 40), np.uint8)
    expected[:10, :20] = 4
    np.testing.assert_array_equal(IDD(tmp_path)[0].label, expected)
    assert not check_dataset("idd", tmp_path, ["train"], progress=False).faults
    label(tmp_path, "polygons.json", polygons(("license plate", square)))
    assert (IDD(tmp_path)[0].label == IGNORE).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (polygons(("cow", [[0, 0], [1, 1], [2, 0]])), "labels must be in the table of IDD, got 'cow'"),
        ("{}", "must be JSON with imgWidth, imgHeight and objects"),
        ("[1", "must be JSON with imgWidth"),
        (b"\xff\xfe", "must be JSON with imgWidth"),
    ],
)
def test_wrong_polygons_are_named(tmp_path, content, message):
    idd(tmp_path)
    path = label(tmp_path, "polygons.json", content)
    with pytest.raises(DataError, match=rf"{path}: {message}"):
        IDD(tmp_path)[0]


def test_missing_labels_say_how_they_are_made(tmp_path):
    idd(tmp_path)
    (tmp_path / "gtFine/train/201").mkdir(parents=True)
    with pytest.raises(DataError, match="frame0029_gtFine_polygons.json: file must exist.*createLabels.py of AutoNUE"):
        IDD(tmp_path)
    with pytest.raises(DataError, match="folder .*leftImg8bit/val must exist, got no such folder; check the root and"):
        IDD(tmp_path, "val")
    assert name_ids("idd")["license plate"] == 39


def lite(root, name="1/092468"):
    put(root / f"leftImg8bit/val/{name}_image.jpg", picture())
    put(root / f"gtFine/val/{name}_inst_label.png", png(every_id(30), 8, 0))
    return put(root / f"gtFine/val/{name}_label.png", png(np.where(every_id(8) == 7, 255, every_id(8)), 8, 0))


def test_idd_lite(tmp_path):
    path = lite(tmp_path)
    dataset = open_dataset("idd_lite", tmp_path, "val")
    assert dataset.names == ["1/092468"] and not dataset.listing.strays
    assert dataset.label_set.names[:3] == ("drivable", "non-drivable", "living thing") and len(dataset.label_set) == 7
    np.testing.assert_array_equal(dataset[0].label, np.where(every_id(8) == 7, IGNORE, every_id(8)))
    put(path, png(every_id(8), 8, 0))
    with pytest.raises(DataError, match=rf"{path}: label ids .* got 7 .*ids are 0-6 and 255"):
        dataset[0]
    path.unlink()
    with pytest.raises(DataError, match=rf"{path}: file must exist"):
        IDDLite(tmp_path, "val")


def facade(root, content):
    for name in ("a__1", "b__2"):
        put(root / f"images/{name}.jpg", picture())
        put(root / f"labels/{name}.png", content)
    put(root / "train.txt", "images/a__1.jpg\n")
    put(root / "test.txt", "images/b__2.jpg")
    return root


@pytest.mark.parametrize("palette", [False, True])
def test_labelmefacade(tmp_path, palette):
    colours = np.array(table_colours("labelmefacade")[0], np.uint8)
    content = png(every_id(9), 8, 3, colours.tobytes()) if palette else png(colours[every_id(9)], 8, 2)
    root = facade(tmp_path, content)
    dataset = open_dataset("labelmefacade", root, "train")
    assert dataset.names == ["a__1"] and open_dataset("labelmefacade", root, "val").names == ["b__2"]
    names = ("building", "car", "door", "pavement", "road", "sky", "vegetation", "window")
    assert dataset.label_set.names == names
    np.testing.assert_array_equal(dataset[0].label, np.where(every_id(9) == 0, IGNORE, every_id(9) - 1))
    put(root / "val.txt", "a__1\n")
    assert LabelMeFacade(root, "val").names == ["a__1"]
    report = check_dataset("labelmefacade", root, progress=False)
    assert [fault.split("must hold ")[1][:3] for fault in report.faults] == ["100", "845"]


def test_labelmefacade_that_is_not_as_released(tmp_path):
    root = facade(tmp_path, palette_label(every_id(9)))
    with pytest.raises(DataError, match="a__1.png: label colours must be in the table, got .* row 0, column 0"):
        LabelMeFacade(root)[0]
    put(root / "train.txt", "images/c__3.jpg\n")
    with pytest.raises(DataError, match="images/c__3.jpg: file must exist.*train.txt lists it"):
        LabelMeFacade(root)
    (root / "train.txt").unlink()
    with pytest.raises(DataError, match="train.txt: file must exist"):
        LabelMeFacade(root)
