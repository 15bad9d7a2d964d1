"""Datasets at a smaller size: images of one height, labels without new ids."""

import numpy as np

from tests.data.trees import picture, png, put
from tmt.data import open_dataset
from tmt.data.resized import Resized, resized


def opened(root, size=(20, 50)):
    put(root / "classes.csv", "id,name,train_id\n0,a,0\n9,b,1\n")
    label = np.zeros(size, np.uint8)
    label[:, 10:] = 9
    put(root / "images/train/a.png", picture(size=size))
    put(root / "labels/train/a.png", png(label, 8, 0))
    return open_dataset("folders", root, "train")


def test_images_get_the_height_and_keep_their_form(tmp_path):
    dataset = opened(tmp_path)
    small = Resized(dataset, 8)
    image, label, name = small[0]
    assert image.shape == (8, 20, 3) and label.shape == (8, 20) and name == "a" and len(small) == 1
    assert small.names == dataset.names and small.label_set is dataset.label_set
    np.testing.assert_array_equal(label, np.repeat([[0] * 4 + [1] * 16], 8, 0))
    blocks = dataset[0].image[:, 25:45].astype(float).mean((0, 1))  # antialiased: means stay
    assert np.abs(image[:, 10:18].astype(float).mean((0, 1)) - blocks).max() < 2
    np.testing.assert_array_equal(small.label(0), dataset[0].label)


def test_without_a_height_nothing_changes(tmp_path):
    dataset = opened(tmp_path)
    assert resized(dataset, None) is dataset and resized(dataset, 0) is dataset
    same = Resized(dataset, 20)[0]
    np.testing.assert_array_equal(same.image, dataset[0].image)
    np.testing.assert_array_equal(same.label, dataset[0].label)
