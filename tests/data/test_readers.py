"""Readers on tiny trees: what they read, and one clear error for each way in which a tree can be wrong."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tmt.data import IGNORE, Cityscapes, open_dataset
from tmt.errors import DataError
from tmt.synthetic import render
from tmt.synthetic.layouts import VAL_START

SIZE = (32, 64)


def first(folder, pattern):
    return sorted(folder.rglob(pattern))[0]


def write_label(path, change):
    """Rewrites a label file after `change` of its ids."""
    with Image.open(path) as file:
        ids, palette = np.array(file), file.getpalette()
    picture = Image.fromarray(change(ids))
    if palette and picture.mode == "L":
        picture.putpalette(palette)
    picture.save(path)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize("name", ["cityscapes", "gtav"])
@pytest.mark.parametrize(("split", "start", "count"), [("train", 0, 6), ("val", VAL_START, 3)])
def test_a_written_layout_reads_back_as_rendered(made, name, split, start, count):
    dataset = open_dataset(name, made[name], split)
    assert len(dataset) == count and len(set(dataset.names)) == count
    for index in range(count):
        image, label = render(name, 1, start + index, SIZE)
        sample = dataset[index]
        if name == "cityscapes":  # there, licence plates are part of the car
            label = np.where((label == IGNORE) & (sample.label == 13), sample.label, label)
        assert sample.name == dataset.names[index]
        np.testing.assert_array_equal(sample.image, image)
        np.testing.assert_array_equal(sample.label, label)
        assert sample.image.dtype == sample.label.dtype == np.uint8


def test_gtav_labels_are_palette_files_with_ids_as_indices(made):
    with Image.open(made["gtav"] / "labels" / "00001.png") as file:
        assert file.mode == "P"
        assert set(np.unique(np.array(file))) <= set(range(35)) and np.array(file).max() > 18


def test_label_train_ids_are_read_where_the_scripts_made_them(cityscapes):
    expected = Cityscapes(cityscapes, "train")[0].label
    path = first(cityscapes / "gtFine" / "train", "*_labelIds.png")
    made_by_scripts = path.with_name(path.name.replace("_labelIds", "_labelTrainIds"))
    Image.fromarray(expected).save(made_by_scripts)
    path.unlink()
    dataset = Cityscapes(cityscapes, "train")
    assert dataset.labels[0] == made_by_scripts
    np.testing.assert_array_equal(dataset[0].label, expected)


@pytest.mark.parametrize("name", ["cityscapes", "gtav"])
def test_a_missing_folder_is_named(name, tmp_path):
    with pytest.raises(DataError, match=rf"{name}: folder {tmp_path}.* must exist.*tmt.data make"):
        open_dataset(name, tmp_path, "train")


@pytest.mark.parametrize("name", ["cityscapes", "gtav"])
def test_an_unknown_split_is_refused(made, name):
    with pytest.raises(DataError, match="split must be one of train, val, test, got 'dev'"):
        open_dataset(name, made[name], "dev")


def test_an_unknown_dataset_is_refused(tmp_path):
    with pytest.raises(DataError, match="dataset must be one of cityscapes, .*, got 'kitti'"):
        open_dataset("kitti", tmp_path, "train")


def test_an_empty_split_is_refused(cityscapes):
    for path in (cityscapes / "leftImg8bit" / "train").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="must hold .*, got none"):
        Cityscapes(cityscapes, "train")


def test_cityscapes_image_without_label(cityscapes):
    first(cityscapes / "gtFine" / "train", "*.png").unlink()
    with pytest.raises(DataError, match="image must have a label .*got neither"):
        Cityscapes(cityscapes, "train")


@pytest.mark.parametrize("folder", ["images", "labels"])
def test_gtav_missing_file(gtav, folder):
    (gtav / folder / "00002.png").unlink()
    with pytest.raises(DataError, match=rf"{folder}/00002.png: file must exist.*\(1 missing\)"):
        open_dataset("gtav", gtav, "train")


@pytest.mark.parametrize(("name", "bad"), [("cityscapes", 34), ("cityscapes", 255), ("gtav", 35)])
def test_an_id_outside_the_table_is_named_with_its_file(request, name, bad):
    root = request.getfixturevalue(name)
    path = first(root, "*_labelIds.png" if name == "cityscapes" else "labels/00001.png")

    def spoil(ids):
        ids[3, 4:6] = bad
        return ids

    write_label(path, spoil)
    dataset = open_dataset(name, root, "train")
    with pytest.raises(DataError, match=rf"{path}: label ids must be in the table, got {bad} \(2 pixels\)"):
        dataset[0]


def test_label_ids_under_the_name_of_train_ids_are_refused(cityscapes):
    path = first(cityscapes / "gtFine" / "train", "*_labelIds.png")
    path.rename(path.with_name(path.name.replace("_labelIds", "_labelTrainIds")))
    with pytest.raises(DataError, match="is it a labelIds file"):
        Cityscapes(cityscapes, "train")[0]


@pytest.mark.parametrize("name", ["cityscapes", "gtav"])
@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_truncated_file_is_named(request, name, kind):
    root = request.getfixturevalue(name)
    dataset = open_dataset(name, root, "train")
    path = getattr(dataset, kind)[0]
    truncate(path)
    with pytest.raises(DataError, match=f"{path}: must be a complete image file"):
        dataset[0]


@pytest.mark.parametrize("name", ["cityscapes", "gtav"])
def test_a_file_that_vanished_is_named(request, name):
    dataset = open_dataset(name, request.getfixturevalue(name), "train")
    dataset.labels[0].unlink()
    with pytest.raises(DataError, match="file must exist, got no such file"):
        dataset[0]


@pytest.mark.parametrize("name", ["cityscapes", "gtav"])
def test_labels_of_another_mode_are_refused(request, name):
    dataset = open_dataset(name, request.getfixturevalue(name), "train")
    path = dataset.labels[0]
    with Image.open(path) as file:
        other = file.convert("RGB")
    other.save(path)
    with pytest.raises(DataError, match="image mode must be .*, got RGB;"):
        dataset[0]


def test_cityscapes_pairs_must_have_one_size(cityscapes):
    dataset = Cityscapes(cityscapes, "train")
    write_label(dataset.labels[0], lambda ids: ids[:-1])
    with pytest.raises(DataError, match=r"label must have the image's size \(32, 64\), got \(31, 64\)"):
        dataset[0]


def test_gtav_labels_of_another_size_are_resized_with_a_warning(gtav):
    dataset = open_dataset("gtav", gtav, "train")
    expected = dataset[0].label
    write_label(dataset.labels[0], lambda ids: ids.repeat(2, axis=0).repeat(2, axis=1))
    with pytest.warns(UserWarning, match=r"label \(64, 128\) resized to \(32, 64\)"):
        np.testing.assert_array_equal(dataset[0].label, expected)


def test_gtav_split_file_missing_damaged_or_empty(gtav):
    (gtav / "split.mat").write_bytes(b"no matrix")
    with pytest.raises(DataError, match="must be a MATLAB file"):
        open_dataset("gtav", gtav, "train")
    savemat(gtav / "split.mat", {"trainIds": np.array([[0], [1]])})
    with pytest.raises(DataError, match=r"must hold 1-based file numbers, got \[0, 1\]"):
        open_dataset("gtav", gtav, "train")
    savemat(gtav / "split.mat", {"trainIds": np.array([[1], [2], [1]])})
    with pytest.raises(DataError, match=r"split.mat: `trainIds` must list each image once, got 1 again"):
        open_dataset("gtav", gtav, "train")
    with pytest.raises(DataError, match=r"`testIds` must hold 1-based file numbers, got \[\]"):
        open_dataset("gtav", gtav, "test")
    (gtav / "split.mat").unlink()
    with pytest.raises(DataError, match="split.mat: file must exist"):
        open_dataset("gtav", gtav, "train")
