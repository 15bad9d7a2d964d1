"""Class maps: from the classes of any dataset to coarser ones, by name and by id, and each mistake in one line."""

import os

import numpy as np
import pytest

from tests.data.trees import picture, png, put
from tmt.data import CITYSCAPES19, IGNORE, LabelSet, open_dataset
from tmt.data.check import check_dataset
from tmt.data.class_maps import class_maps, read_class_map
from tmt.data.datasets import in_order, list_dataset
from tmt.data.labels import table_classes
from tmt.data.spec import DatasetSpec
from tmt.errors import DataError

TABLE = "id,name,train_id\n0,void,255\n10,grass,0\n20,stone,1\n21,rock,1\n200,water,2\n"
IDS = np.resize(np.array([0, 10, 20, 21, 200], dtype=np.uint8), (20, 40))
DRAWN = ("cityscapes", "bdd100k", "mapillary", "gtav", "synthia")
THREE = LabelSet(("grass", "stone", "water"), np.zeros((3, 3), np.uint8))


@pytest.fixture
def tree(tmp_path):
    put(tmp_path / "classes.csv", TABLE)
    put(tmp_path / "images/train/a.png", picture())
    put(tmp_path / "labels/train/a.png", png(IDS, 8, 0))
    return tmp_path


def labels_by(tree, text):
    """The dataset of the tree with a class map of that text, and its label at ids 0, 10, 20, 21 and 200."""
    dataset = open_dataset("folders", tree, "train", classes=str(put(tree / "map.csv", text)))
    return dataset, [int(dataset[0].label[key == IDS][0]) for key in (0, 10, 20, 21, 200)]


def test_names_are_numbered_as_they_come_first(tree):
    dataset, found = labels_by(tree, "class,name\nwater,wet\nstone,dry\ngrass,dry\n")
    assert dataset.label_set.names == ("wet", "dry") and found == [IGNORE, 1, 1, 1, 0]
    np.testing.assert_array_equal(dataset.label(0), dataset[0].label)


def test_a_column_may_number_them_and_others_colour_them(tree):
    text = "class,name,train_id,red,green,blue\nwater,wet,1,1,2,3\nstone,dry,0,4,5,6\ngrass,,,,,\n"
    dataset, found = labels_by(tree, text)
    assert dataset.label_set.names == ("dry", "wet") and found == [IGNORE, IGNORE, 0, 0, 1]
    assert dataset.label_set.palette.tolist() == [[4, 5, 6], [1, 2, 3]]


def test_ids_are_those_of_the_label_files(tree):
    text = "id,name,train_id\n0,ignored,255\n10,dry,0\n20,dry,0\n21,dry,0\n200,wet,1\n"
    dataset, found = labels_by(tree, text)
    assert dataset.label_set.names == ("dry", "wet") and found == [IGNORE, 0, 0, 0, 1]


@pytest.mark.parametrize("name", DRAWN)
def test_every_layout_of_scenes_meets_seven_classes(made, name):
    plain = open_dataset(name, made[name], "train")
    coarse = open_dataset(name, made[name], "train", classes="cityscapes_to_idd7")
    seven = ("drivable", "non-drivable", "living thing", "vehicle", "roadside object", "far object", "sky")
    assert coarse.label_set.names == seven and coarse.names == plain.names
    to = {"road": 0, "sidewalk": 1, "terrain": 1, "person": 2, "rider": 2, "car": 3, "truck": 3, "bus": 3, "train": 3,
          "motorcycle": 3, "bicycle": 3, "building": 5, "vegetation": 5, "sky": 6}  # fmt: skip
    table = np.array([to.get(one, 4) for one in CITYSCAPES19.names] + [IGNORE] * 237, np.uint8)
    for before, after in zip(plain, coarse, strict=True):
        np.testing.assert_array_equal(after.label, table[before.label])
        np.testing.assert_array_equal(after.image, before.image)
    assert list_dataset(name, made[name], "val", classes="cityscapes_to_idd7").label_set == coarse.label_set
    assert DatasetSpec(name, "nowhere", classes="cityscapes_to_idd7").drawn_classes() == coarse.label_set


def test_maps_of_the_package_lead_to_the_same_classes():
    made = {name: read_class_map(name, label_set_for(name), name) for name in class_maps()}
    seven = {name: one for name, one in made.items() if name.endswith("_to_idd7")}
    assert len(seven) == 4 and {one.label_set for one in seven.values()} == {table_classes("idd_lite")}
    assert made["camvid32_to_camvid11"].label_set == table_classes("camvid11")
    for name, one in made.items():
        assert set(one.table[: len(label_set_for(name))]) == set(range(len(one.label_set))), "each has something"
    for old, new in (("camvid32_to_camvid11", "camvid11_to_idd7"), ("camvid32_to_idd7", "camvid32_to_idd7")):
        whole = made[new].table[made[old].table] if old != new else made[new].table
        np.testing.assert_array_equal(whole[:31], made["camvid32_to_idd7"].table[:31])


def label_set_for(name):
    kind = name.split("_to_")[0]
    return CITYSCAPES19 if kind == "cityscapes" else table_classes(kind, "level3" if kind == "idd" else "train_id")


def test_datasets_check_with_a_map(made):
    report = check_dataset("gtav", made["gtav"], classes="cityscapes_to_idd7", progress=False)
    assert not report.faults and set(report.splits["train"].classes) > {"drivable", "sky"}
    report = check_dataset("gtav", made["gtav"], classes="nowhere.csv", progress=False)
    assert len(report.faults) == 2
    assert "nowhere.csv: class map must be a CSV file or one of c" in report.faults[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class,name\ngrass,a\nstone,b\n", "map.csv: class map must have a line for each class .*, got none for water"),
        ("class,name\ngrass,a\nston,b\nwater,b\n", "line 3: class must be one of folders, got 'ston'; did you mean"),
        ("class,name\ngrass,a\nsea,b\nwater,b\n", "got 'sea'.*(they are grass, stone, water|did you mean)"),
        ("class,name\ngrass,a\nstone,b\nwater,b\ngrass,b\n", "line 5: .* one line, got 'grass' again after .*line 2"),
        ("class,name\ngrass,\nstone,\nwater,\n", r"train_id must take each of 0..K-1, .*got \[\]"),
        ("name\na\n", "map.csv: must have a column class or id beside name, got neither"),
        ("class,train_id\na,0\n", "map.csv: must have the columns name and rows, got none of name"),
        ("class,name,train_id\ngrass,a,0\nstone,b,2\nwater,a,0\n", r"train_id must take each of .*got \[0, 2\]"),
        ("id,name\n10,a\n20,a\n21,b\n200,b\n", "line 4: .* got 'stone' again after .*line 3"),
        ("id,name\n10,a\n20,a\n21,a\n200,b\n0,c\n", "line 6: id must be of a class of folders, got 0, which has none"),
        ("id,name\n10,a\n20,a\n", "got none for water"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tree, text, message):
    with pytest.raises(DataError, match=message) as caught:
        labels_by(tree, text)
    assert "\n" not in str(caught.value)


def test_the_order_of_another_dataset(tree):
    dataset, _ = labels_by(tree, "class,name,red,green,blue\nwater,wet,1,1,1\nstone,dry,2,2,2\ngrass,green,3,3,3\n")
    other = in_order(dataset, LabelSet(("green", "dry", "wet"), np.zeros((3, 3), np.uint8)))
    assert other.label_set.names == ("green", "dry", "wet")
    assert other.label_set.palette.tolist() == [[3, 3, 3], [2, 2, 2], [1, 1, 1]]
    np.testing.assert_array_equal(other[0].label, np.array([2, 1, 0] + [IGNORE] * 253, np.uint8)[dataset[0].label])
    assert in_order(dataset, dataset.label_set) is dataset and in_order(dataset, THREE) is dataset


@pytest.mark.skipif("TMT_REAL_DATA" not in os.environ, reason="TMT_REAL_DATA is not the folder of real images")
def test_camvid_meets_idd_lite():
    root = os.environ["TMT_REAL_DATA"]
    classes = f"{root}/class-maps/camvid_to_idd7.csv"
    camvid = open_dataset("folders", f"{root}/camvid", "val", classes=classes)
    idd = open_dataset("folders", f"{root}/idd-lite", "val")
    assert in_order(camvid, idd.label_set).label_set == idd.label_set and (len(camvid), len(idd)) == (101, 204)
    for dataset in (camvid, idd):
        shares = sum(np.bincount(dataset.label(i).ravel(), minlength=256)[:7] for i in range(0, len(dataset), 10))
        assert (shares > 0).all()
    dusk = open_dataset("folders", f"{root}/camvid", "val", images=f"{root}/camvid/splits/dusk-val.txt")
    assert len(dusk) == 62 and dusk.names[0].startswith("test/0001TP")
