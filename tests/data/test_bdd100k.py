"""BDD100K in both of its layouts, and what is easily mistaken for its masks."""

import numpy as np
import pytest

from tests.data.trees import picture, png, put
from tmt.data import BDD100K, CLASSES, IGNORE, open_dataset
from tmt.errors import DataError

IDS = np.resize(np.array([*range(19), IGNORE], dtype=np.uint8), (20, 40))


def current(root, label=IDS):
    put(root / "images/10k/train/0a-b.jpg", picture())
    return put(root / "labels/sem_seg/masks/train/0a-b.png", label if isinstance(label, bytes) else png(label, 8, 0))


def legacy(root, label=IDS):
    put(root / "seg/images/train/0a-b.jpg", picture())
    return put(root / "seg/labels/train/0a-b_train_id.png", png(label, 8, 0))


@pytest.mark.parametrize("layout", [current, legacy])
def test_both_layouts_give_the_ids_as_they_are(tmp_path, layout):
    layout(tmp_path)
    dataset = open_dataset("bdd100k", tmp_path, "train")
    sample = dataset[0]
    assert dataset.names == ["0a-b"] and dataset.label_set.names == CLASSES
    np.testing.assert_array_equal(sample.label, IDS)
    assert np.abs(sample.image.astype(int) - picture()).mean() < 6  # JPEG


def test_the_current_layout_counts_where_both_are(tmp_path):
    legacy(tmp_path)
    path = current(tmp_path)
    assert BDD100K(tmp_path).labels == [path]


def test_colour_maps_beside_legacy_masks_are_left_alone(tmp_path):
    path = legacy(tmp_path)
    put(path.with_name("0a-b_train_color.png"), picture())
    assert BDD100K(tmp_path).labels == [path]


def test_the_raw_encoding_is_named(tmp_path):
    raw = np.resize(np.arange(41, dtype=np.uint8), IDS.shape)
    path = current(tmp_path, raw)
    with pytest.raises(DataError, match=rf"{path}: label ids must be in the table, got 19, 20, .*raw encoding, 0-40"):
        BDD100K(tmp_path)[0]


def test_colour_maps_and_pan_seg_are_named(tmp_path):
    path = current(tmp_path, png(picture(), 8, 2))
    with pytest.raises(DataError, match=rf"{path}: image mode must be L, got RGB; .*colour maps.*pan_seg"):
        BDD100K(tmp_path)[0]
    bitmask = np.zeros((20, 40, 4), np.uint8)
    put(path, bitmask)
    with pytest.raises(DataError, match="image mode must be L, got RGBA; .*pan_seg"):
        BDD100K(tmp_path)[0]


def test_an_image_without_mask_and_an_unlabelled_split_are_refused(tmp_path):
    path = current(tmp_path)
    put(tmp_path / "images/10k/train/1.jpg", picture())
    with pytest.raises(DataError, match=rf"{path.parent}/1.png: file must exist, .*\(1 missing\).*sem_seg"):
        BDD100K(tmp_path)
    put(tmp_path / "images/10k/test/1.jpg", picture())
    with pytest.raises(DataError, match="folder .*masks/test must exist"):
        BDD100K(tmp_path, "test")
    with pytest.raises(DataError, match="split must be one of train, val, test, got 'dev'"):
        BDD100K(tmp_path, "dev")


def test_an_empty_split_is_refused(tmp_path):
    current(tmp_path)
    (tmp_path / "images/10k/train/0a-b.jpg").unlink()
    with pytest.raises(DataError, match=r"must hold \*.jpg, got none"):
        BDD100K(tmp_path)
