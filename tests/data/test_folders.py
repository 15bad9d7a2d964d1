"""A dataset of one's own: three classes, images in subfolders, and one clear error for each mistake in it."""

import errno
import os
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.trees import palette_label, picture, png, put
from tmt.data import CITYSCAPES19, IGNORE, Folders, LabelSet, colourise, open_dataset
from tmt.errors import DataError

TABLE = "id,name,train_id\n0,void,255\n10,grass,0\n20,stone,1\n21,rock,1\n200,water,2\n7,sky,\n"
IDS = np.resize(np.array([0, 10, 20, 21, 200, 7], dtype=np.uint8), (20, 40))
EXPECTED = np.resize(np.array([255, 0, 1, 1, 2, 255], dtype=np.uint8), (20, 40))


@pytest.fixture
def tree(tmp_path):
    put(tmp_path / "classes.csv", TABLE)
    for name in ("b/two.png", "a/eins äöü.jpg", "UPPER.JPG", "dots.in.name.jpeg"):
        path = tmp_path / "images" / "train" / name
        content = picture()
        if path.suffix in (".JPG", ".jpeg"):
            put(path.with_suffix(".jpg"), content).rename(path)
        else:
            put(path, content)
        put((tmp_path / "labels" / "train" / name).with_suffix(".png"), png(IDS, 8, 0))
    return tmp_path


def test_ids_become_train_ids_and_names_keep_their_folders(tree):
    dataset = open_dataset("folders", tree, "train")
    assert dataset.names == ["UPPER", "a/eins äöü", "b/two", "dots.in.name"]
    assert dataset.label_set.names == ("grass", "stone", "water") and len(dataset.label_set) == 3
    for sample in dataset:
        np.testing.assert_array_equal(sample.label, EXPECTED)
    np.testing.assert_array_equal(dataset[2].image, picture())


@pytest.mark.parametrize("row", ["", "255,snow,3\n"])
def test_255_is_no_label_unless_the_table_says_otherwise(tree, row):
    put(tree / "classes.csv", TABLE + row)
    put(tree / "labels/train/b/two.png", png(np.where(IDS == 10, np.uint8(255), IDS), 8, 0))
    expected = np.where(EXPECTED == 0, 3 if row else IGNORE, EXPECTED)
    np.testing.assert_array_equal(open_dataset("folders", tree, "train")[2].label, expected)


def test_palette_labels_count_by_index(tree):
    put(tree / "labels/train/UPPER.png", palette_label(IDS))
    np.testing.assert_array_equal(Folders(tree)[0].label, EXPECTED)


def test_colours_come_from_the_table(tree):
    lines = ["id,name,train_id,red,green,blue", "10,grass,0,1,2,3", "20,stone,1,4,5,6", "0,void,,0,0,0"]
    put(tree / "classes.csv", "﻿" + "\r\n".join([*lines, "21,x,255,,,", "200,y,255,,,", "7,z,255,,,"]))
    label_set = Folders(tree).label_set
    assert label_set.palette.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert colourise(np.array([[0, 1, IGNORE]], np.uint8), label_set).tolist() == [[[1, 2, 3], [4, 5, 6], [0, 0, 0]]]


def test_up_to_254_classes(tree):
    put(tree / "classes.csv", "id,name,train_id\n" + "".join(f"{i},c{i},{i}\n" for i in range(254)))
    dataset = Folders(tree)
    assert len(dataset.label_set) == 254 and len({tuple(c) for c in dataset.label_set.palette.tolist()}) > 200
    np.testing.assert_array_equal(dataset[0].label, IDS)
    put(tree / "classes.csv", "id,name,train_id\n" + "".join(f"{i},c{i},{i}\n" for i in range(255)))
    with pytest.raises(DataError, match="train_id must take each of 0..K-1, at most 253"):
        Folders(tree)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a complete table of classes, got an empty file"),
        ("id,name\n1,a\n", "must have the columns id, name, train_id"),
        ("id,name,train_id\n", "must have the columns id, name, train_id and rows"),
        ("id,name,train_id\nx,a,0\n", "line 2: id must be a whole number 0..255, got 'x'"),
        ("id,name,train_id\n256,a,0\n", "line 2: id must be a whole number"),
        ("id,name,train_id\n1,a,0\n2,b,-1\n", "line 3: train_id must be a whole number 0..255, got '-1'"),
        ("id,name,train_id\n1,a,0\n1,b,1\n", "line 3: id must be in one line only, got 1 again"),
        ("id,name,train_id\n1,a,0\n2,b,2\n", r"train_id must take each of 0..K-1, .*got \[0, 2\]"),
        ("id,name,train_id\n1,a,255\n", r"train_id must take each of 0..K-1, .*got \[\]"),
        ("id,name,train_id\n1,a,0\n2,a,1\n", "names must differ, got 'a' for train ids 0 and 1"),
        ("id,name,train_id,red,green,blue\n1,a,0,1,2,\n", "line 2: blue must be a whole number"),
        ("id,name,train_id\n1\n", "names must differ|train_id must take each|line 2"),
        (b"\xff\xfe\x00id", "must be a CSV file in UTF-8"),
    ],
)
def test_a_wrong_table_is_named_with_its_line(tree, text, message):
    put(tree / "classes.csv", text)
    with pytest.raises(DataError, match=rf"classes.csv.*({message})"):
        Folders(tree)


def test_an_id_without_a_row_is_refused(tree):
    path = put(tree / "labels/train/UPPER.png", png(np.full((20, 40), 11, np.uint8), 8, 0))
    with pytest.raises(DataError, match=rf"{path}: label ids must be in the table, got 11 \(800 pixels\); add the id"):
        Folders(tree)[0]


def test_missing_and_doubled_files_are_named(tree):
    with pytest.raises(DataError, match="folder .*images/val must exist.*images/<split>"):
        Folders(tree, "val")
    put(tree / "images/train/b/two.jpg", picture())
    with pytest.raises(DataError, match=r"b/two.png: images must differ in name, got .*b/two.jpg"):
        Folders(tree)
    (tree / "images/train/b/two.jpg").unlink()
    (tree / "labels/train/b/two.png").unlink()
    with pytest.raises(DataError, match="labels/train/b/two.png: file must exist"):
        Folders(tree)
    (tree / "classes.csv").unlink()
    with pytest.raises(DataError, match="classes.csv: table of classes must exist"):
        Folders(tree)


def test_links_to_folders_are_followed_and_loops_named(tree, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    put(other / "far.png", picture())
    (tree / "images/train/linked").symlink_to(other)
    put(tree / "labels/train/linked/far.png", png(IDS, 8, 0))
    assert "linked/far" in Folders(tree).names
    (other / "back").symlink_to(tree / "images/train")
    with pytest.raises(DataError, match="linked/back: must not lead back to a folder above it"):
        Folders(tree)


@pytest.mark.parametrize("ending", ["tif", "TIFF", "bmp", "webp"])
def test_images_of_other_formats_are_read(tree, ending):
    Image.fromarray(picture()).save(tree / f"images/train/other.{ending}")
    put(tree / "labels/train/other.png", png(IDS, 8, 0))
    dataset = Folders(tree)
    assert dataset[dataset.names.index("other")].image.shape == (20, 40, 3)


def test_what_no_reader_knows_is_named(tree):
    put(tree / "images/train/b/photo.heic", b"x")
    put(tree / "images/train/b/Thumbs.db", b"x")
    with pytest.warns(UserWarning, match=r"images/train: 2 files are not read, such as b/Thumbs.db; images end with"):
        assert len(Folders(tree)) == 4


def test_hidden_files_are_nobodys_images(tree):
    for name in ("._UPPER.png", ".DS_Store", ".ipynb_checkpoints/UPPER.png", "b/._two.png"):
        put(tree / "images/train" / name, b"Mac OS X")
        put(tree / "labels/train" / name, b"Mac OS X")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = Folders(tree)
    assert len(dataset) == 4 and not dataset.listing.strays


def test_a_dataset_may_have_one_class(tree):
    put(tree / "classes.csv", "id,name,train_id\n0,void,\n10,grass,0\n20,a,\n21,b,\n200,c,\n7,d,\n")
    assert set(np.unique(Folders(tree)[0].label)) == {0, IGNORE} and len(Folders(tree).label_set) == 1


COLOURED = "id,name,train_id,red,green,blue\n0,void,255,0,0,0\n10,grass,0,0,200,0\n20,stone,1,9,9,9\n21,rock,1,9,9,9\n"
PAINTED = np.array([[[0, 0, 0], [0, 200, 0]], [[9, 9, 9], [9, 9, 9]]], np.uint8).repeat(10, 0).repeat(20, 1)


def test_labels_may_be_pictures_in_the_colours_of_the_table(tree):
    put(tree / "classes.csv", COLOURED)
    put(tree / "labels/train/UPPER.png", png(PAINTED, 8, 2))
    expected = np.array([[255, 0], [1, 1]], np.uint8).repeat(10, 0).repeat(20, 1)
    np.testing.assert_array_equal(Folders(tree)[0].label, expected)


def test_a_colour_that_is_not_in_the_table_is_named_with_its_place(tree):
    put(tree / "classes.csv", COLOURED)
    wrong = PAINTED.copy()
    wrong[3, 7] = wrong[4, 1] = (1, 200, 0)
    path = put(tree / "labels/train/UPPER.png", png(wrong, 8, 2))
    message = rf"{path}: label colours .* got \(1, 200, 0\) at row 3, column 7 \(2 pixels of unknown colours\); add"
    with pytest.raises(DataError, match=message):
        Folders(tree)[0]


def test_colours_that_cannot_decode_are_named(tree):
    put(tree / "labels/train/UPPER.png", png(PAINTED, 8, 2))
    with pytest.raises(DataError, match="UPPER.png: label must hold class ids, got an RGB picture; save ids, or give"):
        Folders(tree)[0]
    put(tree / "classes.csv", COLOURED.replace("21,rock,1,9,9,9", "21,rock,2,9,9,9"))
    with pytest.raises(DataError, match=r"line 5: colour must be of one class .*, got \(9, 9, 9\) as in .*line 4"):
        Folders(tree)[0]
    put(tree / "labels/train/UPPER.png", png(np.full((20, 40), 21, np.uint8), 8, 0))
    assert set(np.unique(Folders(tree)[0].label)) == {2}, "labels of ids do not mind"


def test_deep_labels_hold_ids_up_to_255(tree):
    path = put(tree / "labels/train/UPPER.png", png(IDS.astype(np.uint16), 16, 0))
    np.testing.assert_array_equal(Folders(tree)[0].label, EXPECTED)
    high = IDS.astype(np.uint16)
    high[2, 5] = 300
    put(path, png(high, 16, 0))
    with pytest.raises(DataError, match=rf"{path}: label ids must be 0..255, got 300 at row 2, column 5 \(1 such"):
        Folders(tree)[0]


def test_label_sets():
    assert LabelSet(CITYSCAPES19.names, CITYSCAPES19.palette[::-1].copy()) == CITYSCAPES19
    assert LabelSet(("a",), np.zeros((1, 3), np.uint8)) != CITYSCAPES19 and len({CITYSCAPES19, CITYSCAPES19}) == 1
    with pytest.raises(DataError, match="LabelSet: palette must be uint8"):
        LabelSet(("a", "b"), np.zeros((1, 3), np.uint8))


@pytest.mark.parametrize("place", [".", "images", "images/train", "images/train/b", "labels/train/b"])
def test_folders_that_may_not_be_looked_into_are_named(tree, monkeypatch, place):
    """Whoever runs the tests may look into every folder; the system's answer to others is played."""
    shut = tree / place

    def refuse(path, *_, real, **__):
        if Path(path) == shut or (shut in Path(path).parents and real is os.stat):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "listdir", partial(refuse, real=os.listdir))
    monkeypatch.setattr(Path, "stat", lambda path, **_: refuse(path, real=os.stat))
    with pytest.raises(DataError, match="must be (readable|a readable folder).*, got Permission denied; check"):
        open_dataset("folders", tree, "train")
