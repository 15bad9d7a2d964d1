"""SYNTHIA's 16-bit labels, written and read by independent code, and its split without an official list."""

import kornia_rs.io
import numpy as np
import pytest
from PIL import Image

from tests.data.trees import every_id, picture, png, put
from tmt.data import Synthia, open_dataset
from tmt.data.labels import lookup_table
from tmt.data.readers.synthia import split_numbers
from tmt.errors import DataError

CLASSES = every_id(23)
INSTANCES = (np.arange(800).reshape(20, 40) * 300 + 1).astype(np.uint16)  # beyond 8 bits, unlike the classes


def label(classes=CLASSES):
    """Classes in the first channel, instances in the second."""
    return np.stack([classes.astype(np.uint16), INSTANCES, np.zeros_like(INSTANCES)], axis=-1)


def tree(root, count=1, content=None):
    for number in range(count):
        put(root / "RGB" / f"{number:07d}.png", picture(number))
        put(root / "GT/LABELS" / f"{number:07d}.png", content or png(label(), 16, 2))
    return root / "GT/LABELS/0000000.png"


def lists(root, train, val):
    put(root / "train.txt", train)
    put(root / "val.txt", val)


@pytest.mark.parametrize("writer", ["by hand", "kornia_rs"])
def test_sixteen_bit_labels_read_back(tmp_path, writer):
    path = tree(tmp_path)
    if writer == "kornia_rs":
        kornia_rs.io.write_image_png_u16(str(path), label(), "rgb")
    lists(tmp_path, "0000000\n", "0000000\n")
    sample = open_dataset("synthia", tmp_path, "train")[0]
    np.testing.assert_array_equal(sample.label, lookup_table("synthia")[CLASSES])
    np.testing.assert_array_equal(sample.image, picture())


def test_both_writers_mean_the_same_pixels(tmp_path):
    put(tmp_path / "hand.png", png(label(), 16, 2))
    kornia_rs.io.write_image_png_u16(str(tmp_path / "kornia.png"), label(), "rgb")
    for name in ("hand.png", "kornia.png"):
        np.testing.assert_array_equal(kornia_rs.io.read_image_png_u16(str(tmp_path / name), "rgb"), label())
    with Image.open(tmp_path / "hand.png") as file:  # why pillow does not read them here
        assert np.array(file).dtype == np.uint8


def test_synthetic_labels_are_16_bit(made):
    path = sorted((made["synthia"] / "GT/LABELS").glob("*.png"))[0]
    assert path.read_bytes()[24:26] == bytes((16, 2))


@pytest.mark.parametrize(
    "wrong",
    [png(CLASSES, 8, 0), png(np.stack([CLASSES] * 3, -1), 8, 2), png(CLASSES, 16, 0), b"P6 no PNG at all"],
    ids=["8-bit grey", "8-bit RGB", "16-bit grey", "not a PNG"],
)
def test_other_encodings_are_named(tmp_path, wrong):
    path = tree(tmp_path, 3, wrong)
    with pytest.raises(DataError, match=rf"{path}: must be a 16-bit RGB PNG, got .*GT/COLOR.*8 bits"):
        lists(tmp_path, "0000000", "0000000")
        Synthia(tmp_path)[0]


@pytest.mark.parametrize("bad", [23, 255, 256, 65535])
def test_a_class_outside_the_table_is_named(tmp_path, bad):
    pixels = label()
    pixels[0, 0, 0] = bad
    path = tree(tmp_path, 1, png(pixels, 16, 2))
    lists(tmp_path, "0000000", "0000000")
    with pytest.raises(DataError, match=rf"{path}: label ids must be in the table, got {bad}"):
        Synthia(tmp_path)[0]


def test_the_rule_splits_seventy_to_thirty(tmp_path):
    tree(tmp_path, 20)
    train, val = Synthia(tmp_path, "train"), Synthia(tmp_path, "val")
    assert (len(train), len(val)) == (14, 6) and train.names == sorted(train.names)
    assert sorted(train.names + val.names) == [f"{number:07d}" for number in range(20)]
    names = [f"{number:07d}" for number in range(1, 9401)]  # the real set's, and what everyone gets of it
    chosen = split_numbers(names, "val")
    assert len(chosen) == 2820 and set(chosen).isdisjoint(split_numbers(names, "train"))
    order = np.random.default_rng(0).permutation(9400)[:2820]
    assert chosen == [names[i] for i in sorted(order)]


@pytest.mark.parametrize("form", ["{:07d}", "{:07d}.png", "RGB/{:07d}.png\r"])
def test_a_list_is_followed(tmp_path, form):
    tree(tmp_path, 4)
    lists(tmp_path, "\n".join(form.format(i) for i in (3, 1)) + "\n\n", form.format(0))
    assert Synthia(tmp_path, "train").names == ["0000001", "0000003"]
    assert Synthia(tmp_path, "val").names == ["0000000"]


def test_wrong_lists_are_refused(tmp_path):
    tree(tmp_path, 2)
    put(tmp_path / "train.txt", "0000000\n")
    with pytest.raises(DataError, match="must hold both train.txt and val.txt or neither, got train.txt"):
        Synthia(tmp_path)
    lists(tmp_path, "0000007", "")
    with pytest.raises(DataError, match=r"RGB/0000007.png: file must exist.*train.txt lists it"):
        Synthia(tmp_path)
    with pytest.raises(DataError, match="val.txt: must list one image name a line, got none"):
        Synthia(tmp_path, "val")
    put(tmp_path / "val.txt", b"\xff\xfe\x00")
    with pytest.raises(DataError, match="val.txt: must be a text file"):
        Synthia(tmp_path, "val")
    lists(tmp_path, "0000000\n0000000", "0000001")
    with pytest.raises(DataError, match="train.txt: must list each image once, got 0000000 twice"):
        Synthia(tmp_path)


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(DataError, match="synthia: folder .*RGB must exist"):
        Synthia(tmp_path)
    tree(tmp_path, 1)
    with pytest.raises(DataError, match="split must be one of train, val, got 'test'"):
        Synthia(tmp_path, "test")
    with pytest.raises(DataError, match="split val must hold images, got none"):
        Synthia(tmp_path, "val")
    (tmp_path / "GT/LABELS/0000000.png").unlink()
    with pytest.raises(DataError, match="0000000.png: file must exist"):
        Synthia(tmp_path)


@pytest.mark.parametrize("name", ["000000.png", "ap_000_01-11-2015_19-20-57_000001_1_Rand_2.png", "Omni_F_000000.png"])
def test_files_named_as_in_other_releases_are_refused(tmp_path, name):
    """SYNTHIA-SEQS and SYNTHIA-RAND name other classes, 12 is lane marking there."""
    put(tmp_path / "RGB" / name, picture())
    put(tmp_path / "GT/LABELS" / name, png(label(), 16, 2))
    with pytest.raises(DataError, match=rf"RGB/{name}: images must be named by seven digits.*12 lane marking"):
        Synthia(tmp_path)


def test_the_folders_of_a_sequence_are_refused(tmp_path):
    for folder in ("RGB", "GT/LABELS"):
        put(tmp_path / folder / "Stereo_Left/Omni_F/000000.png", picture())
    with pytest.raises(DataError, match="got SYNTHIA-SEQS' folders of a stereo camera; .*12 lane marking"):
        Synthia(tmp_path)
    root = tmp_path / "SYNTHIA-SEQS-01-SPRING"
    tree(root, 4)
    with pytest.raises(DataError, match=f"folder called SYNTHIA-SEQS, got {root}"):
        Synthia(root)
