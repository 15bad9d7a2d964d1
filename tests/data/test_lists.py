"""Lists of the images to use: parts of a split or of several, and each mistake in one line."""

import numpy as np
import pytest

from tests.data.trees import picture, png, put
from tmt.data import open_dataset
from tmt.errors import DataError


@pytest.fixture
def tree(tmp_path):
    put(tmp_path / "classes.csv", "id,name,train_id\n0,a,0\n1,b,1\n")
    for i, name in enumerate(("train/one", "train/day/two", "train/three", "test/one", "test/four")):
        put(tmp_path / f"images/{name}.png", picture(i))
        put(tmp_path / f"labels/{name}.png", png(np.full((20, 40), i % 2, np.uint8), 8, 0))
    return tmp_path


def opened(tree, text, split="train"):
    return open_dataset("folders", tree, split, images=str(put(tree / "list.txt", text)))


def test_a_list_names_images_of_its_split_and_of_others(tree):
    dataset = opened(tree, "# mine\nthree\n\ntest/four\nday/two.png\ntrain/one\ntest/one\n")
    assert dataset.names == ["three", "test/four", "day/two.png", "train/one", "test/one"]
    for sample, i in zip(dataset, (2, 4, 1, 0, 3), strict=True):
        np.testing.assert_array_equal(sample.image, picture(i))
        assert (sample.label == i % 2).all()


def test_the_split_itself_need_not_be_there(tree):
    assert opened(tree, "test/one\n", "val").names == ["test/one"]


def test_other_layouts_have_lists_too(made, tmp_path):
    name = open_dataset("gtav", made["gtav"], "val").names[1]
    path = put(tmp_path / "list.txt", f"val/{name}\n")
    dataset = open_dataset("gtav", made["gtav"], "train", images=str(path), classes="cityscapes_to_idd7")
    assert dataset.names == [f"val/{name}"] and len(dataset.label_set) == 7 and dataset[0].label.shape


@pytest.mark.parametrize(
    ("text", "split", "message"),
    [
        ("", "train", "list.txt: must be a complete list of images, got an empty file"),
        ("# nothing\n", "train", "list.txt: must name an image a line, got none"),
        ("one\ntwo\n", "train", "line 2: image must be there, got two; lines are NAME, of split train, or S"),
        ("test/five\n", "train", "line 1: image must be there, got test/five; lines"),
        ("night/one\n", "train", r"image must be there, got night/one \(folders: folder .*images/night must"),
        ("one\n", "val", r"line 1: image must be there, got one \(folders: folder .*images/val must exist"),
        ("one\ntrain/one\n", "train", "list.txt, line 2: image must be named once, got train/one as in line 1"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tree, text, split, message):
    with pytest.raises(DataError, match=message):
        opened(tree, text, split)


def test_a_list_that_is_missing(tree):
    with pytest.raises(DataError, match="none.txt: file must exist"):
        open_dataset("folders", tree, "train", images=str(tree / "none.txt"))
