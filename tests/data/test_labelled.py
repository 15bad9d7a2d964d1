"""Labels that say nothing are refused before training and scoring; images that are not read are named."""

import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.trees import picture, png, put
from tests.helpers import runs
from tests.helpers.reader_model import Reader
from tmt.cli import train
from tmt.data import Augment, Cityscapes, Folders, Subset, open_dataset, require_classes, train_batches
from tmt.data.check import check_dataset
from tmt.errors import DataError
from tmt.inference.evaluation import evaluate
from tmt.runtime.distributed import World

VOID, GRASS, STONE = 0, 1, 2


@pytest.fixture
def tree(tmp_path):
    """Three training images, one of validation, of two classes; each label is filled with one id."""
    put(tmp_path / "classes.csv", "id,name,train_id\n0,void,\n1,grass,0\n2,stone,1\n")
    fill(tmp_path, "train", VOID, VOID, GRASS)
    fill(tmp_path, "val", GRASS)
    return tmp_path


def fill(root, split, *ids):
    for number, value in enumerate(ids):
        put(root / f"images/{split}/{number}.png", picture(number))
        put(root / f"labels/{split}/{number}.png", png(np.full((20, 40), value, np.uint8), 8, 0))


def batch(dataset):
    return next(train_batches(dataset, Augment(crop=(8, 8)), 1, seed=0))


def test_one_labelled_pixel_is_enough(tree):
    label = np.zeros((20, 40), np.uint8)
    label[3, 4] = STONE
    fill(tree, "train", VOID, VOID, VOID)
    put(tree / "labels/train/2.png", png(label, 8, 0))
    require_classes(Folders(tree), "mine")
    assert batch(Folders(tree))["labels"].shape == (1, 8, 8)


def test_a_split_without_a_labelled_pixel_is_refused(tree):
    fill(tree, "train", VOID, VOID, VOID)
    with pytest.raises(
        DataError, match="^mine: labels must give a pixel a class, got 255 alone in all 3; see them with"
    ):
        require_classes(Folders(tree), "mine")
    with pytest.raises(DataError, match="^train_batches: labels must give a pixel a class"):
        batch(Folders(tree))


def test_so_is_a_subset_that_happens_to_have_none(tree):
    fill(tree, "train", VOID, VOID, GRASS)
    void = next(part for seed in range(20) if (part := Subset(Folders(tree), 1, seed)).indices != [2])
    with pytest.raises(DataError, match="train_batches: labels .* in all 1;"):
        batch(void)


def test_so_is_one_whose_table_ignores_every_id_that_occurs(tree):
    put(tree / "classes.csv", "id,name,train_id\n0,void,\n1,grass,\n2,stone,0\n3,water,1\n")
    with pytest.raises(DataError, match="labels must give a pixel a class"):
        batch(Folders(tree))


def test_the_check_names_splits_without_a_class_and_of_one(tree):
    fill(tree, "train", VOID, VOID, VOID)
    report = check_dataset("folders", tree, progress=False)
    assert any("split train must have pixels of a class, got none" in fault for fault in report.faults)
    assert any("split val shows no class but grass" in text for text in report.warnings)
    fill(tree, "train", VOID, GRASS, STONE)
    report = check_dataset("folders", tree, ["train"], progress=False)
    assert report.faults == [] and not any("shows no class but" in text for text in report.warnings)


def test_images_of_one_name_in_two_cities_are_refused(cityscapes):
    image = sorted(cityscapes.glob("leftImg8bit/train/*/*.png"))[0]
    for kind in ("leftImg8bit", "gtFine"):
        city = cityscapes / kind / "train" / image.parent.name
        shutil.copytree(city, city.with_name("elsewhere"))
    with pytest.raises(DataError, match="images must differ in name, got .* too; rename one"):
        Cityscapes(cityscapes)


@pytest.mark.parametrize("layout", ["cityscapes", "bdd100k", "mapillary", "synthia"])
def test_layouts_tell_of_images_they_do_not_read(made, tmp_path, layout):
    root = shutil.copytree(made[layout], tmp_path / layout)
    image = open_dataset(layout, root, "train").images[0]
    Image.fromarray(picture()).save(image.with_suffix(".tif"))
    image.with_name("._" + image.name).write_bytes(b"Mac OS X")
    with pytest.warns(UserWarning, match=rf"1 files are not read, such as .*{image.stem}.tif"):
        assert image in open_dataset(layout, root, "train").images


@pytest.mark.parametrize("layout", ["cityscapes", "bdd100k", "mapillary", "folders"])
def test_layouts_tell_of_labels_whose_image_is_gone(made, tree, tmp_path, layout):
    root = tree if layout == "folders" else shutil.copytree(made[layout], tmp_path / layout)
    whole = open_dataset(layout, root, "train")
    whole.images[0].unlink()
    with pytest.warns(UserWarning, match=rf"{whole.labels[0]}: label must have an image, got none \(1 such\)"):
        assert open_dataset(layout, root, "train").names == whole.names[1:]


@pytest.mark.parametrize("layout", ["bdd100k", "mapillary"])
def test_upper_case_endings_are_read(made, tmp_path, layout):
    root = shutil.copytree(made[layout], tmp_path / layout)
    dataset = open_dataset(layout, root, "train")
    dataset.images[0].rename(dataset.images[0].with_suffix(".JPG"))
    assert open_dataset(layout, root, "train").names == dataset.names


@pytest.mark.parametrize("split", ["train", "val"])
def test_training_on_or_scoring_by_labels_that_say_nothing_does_not_begin(tree, tmp_path_factory, capsys, split):
    other = shutil.copytree(tree, tmp_path_factory.mktemp("other") / "data")
    fill(tree, split, VOID, VOID, VOID)
    out = tmp_path_factory.mktemp("runs") / "run"
    argv = runs.arguments(out, other, tree, "--data.source=folders", "--data.target=folders")
    assert train.main(argv) == 2 and not out.exists()
    assert f"error: {tree}, split {split}: labels must give a pixel a class" in capsys.readouterr().err


def test_a_score_without_labels_is_an_error_and_one_of_a_single_class_is_told(tree):
    label_set = Folders(tree).label_set
    model, world = Reader(label_set), World(torch.device("cpu"))
    with pytest.warns(UserWarning, match="evaluate: all labels are of class grass, the mIoU is its IoU alone"):
        assert evaluate(model, Folders(tree, "val"), world).scores.pixels == (800, 0)
    fill(tree, "val", VOID)
    with pytest.raises(DataError, match="^evaluate: labels must give a pixel a class"):
        evaluate(model, Folders(tree, "val"), world)
    fill(tree, "val", GRASS, STONE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(model, Folders(tree, "val"), world)
