"""CamVid in its original release of 32 colours and in that of 11 classes."""

import numpy as np
import pytest

from tests.data.trees import every_id, picture, png, put
from tmt.data import IGNORE, CamVid, open_dataset
from tmt.data.check import check_dataset
from tmt.data.labels import table_colours
from tmt.data.readers.camvid import split_of
from tmt.errors import DataError

COLOURS, NAMES = table_colours("camvid32")
IDS = every_id(32)
PAINTED = np.array(COLOURS, np.uint8)[IDS]
VOID = NAMES.index("Void")


def original(root, *names):
    for name in names:
        put(root / f"701_StillsRaw_full/{name}.png", picture())
        put(root / f"LabeledApproved_full/{name}_L.png", png(PAINTED, 8, 2))
    lines = [f"{' '.join(map(str, colour))}\t{name}" for colour, name in zip(COLOURS, NAMES, strict=True)]
    put(root / "label_colors.txt", "\r\n".join(lines) + "\r\n")
    return root


def eleven(root, split="train", name="0001TP_006690"):
    put(root / f"{split}/{name}.png", picture())
    put(root / f"{split}annot/{name}.png", png(every_id(12), 8, 0))
    return root


def test_colours_become_the_classes_of_the_original_release(tmp_path):
    root = original(tmp_path, "0001TP_006690", "0001TP_008550", "Seq05VD_f00000", "0016E5_08159", "0016E5_08640")
    dataset = open_dataset("camvid", root, "train")
    assert dataset.names == ["0001TP_006690", "0016E5_08640"] and len(dataset.label_set) == 31
    assert dataset.label_set.names == tuple(name for name in NAMES if name != "Void")
    expected = np.where(IDS == VOID, IGNORE, IDS - (IDS > VOID)).astype(np.uint8)
    np.testing.assert_array_equal(dataset[0].label, expected)
    assert open_dataset("camvid", root, "val").names == ["0016E5_08159"]
    assert open_dataset("camvid", root, "test").names == ["0001TP_008550", "Seq05VD_f00000"]


def test_the_classes_are_grouped_to_the_eleven(tmp_path):
    dataset = open_dataset("camvid", original(tmp_path, "0006R0_f00930"), "train", classes="camvid32_to_camvid11")
    other = open_dataset("camvid", eleven(tmp_path / "other"), "train")
    assert dataset.label_set == other.label_set and set(np.unique(dataset[0].label)) == {*range(11), IGNORE}
    np.testing.assert_array_equal(other[0].label, np.where(every_id(12) == 11, IGNORE, every_id(12)))


def test_splits_are_those_of_the_release_of_eleven_classes():
    frames = [f"0001TP_{n:06d}" for n in range(6690, 10381, 30)] + [f"0016E5_{n:05d}" for n in range(7959, 8160, 2)]
    splits = [split_of(name) for name in frames]
    assert (splits.count("train"), splits.count("test"), splits.count("val")) == (62, 62, 101)
    with pytest.raises(DataError, match="images must be named as released, such as 0001TP_006690, got street"):
        split_of("street")


def test_what_is_not_as_released_is_named(tmp_path):
    root = original(tmp_path, "0006R0_f00930")
    wrong = PAINTED.copy()
    wrong[1, 2] = (1, 2, 3)
    path = put(root / "LabeledApproved_full/0006R0_f00930_L.png", png(wrong, 8, 2))
    with pytest.raises(DataError, match=rf"{path}: label colours .* got \(1, 2, 3\) at row 1, column 2 .*label_colors"):
        CamVid(root)[0]
    with pytest.raises(DataError, match="camvid: split val must hold images, got none; add those of its sequences"):
        CamVid(root, "val")
    put(root / "label_colors.txt", "1 2 3\tAnimal\n")
    with pytest.raises(DataError, match="label_colors.txt: colours must be those of the release, got 1 2 3 Animal"):
        CamVid(root)
    path.unlink()
    (root / "label_colors.txt").unlink()
    with pytest.raises(DataError, match="0006R0_f00930_L.png: file must exist"):
        CamVid(root)
    with pytest.raises(DataError, match="split must be one of train, val, test, got 'dev'"):
        CamVid(root, "dev")


def test_other_ids_and_other_folders_are_named(tmp_path):
    root = eleven(tmp_path)
    path = put(root / "trainannot/0001TP_006690.png", png(every_id(13), 8, 0))
    with pytest.raises(DataError, match=rf"{path}: label ids must be in the table, got 12 .*ids are 0-11"):
        CamVid(root)[0]
    with pytest.raises(DataError, match="must hold 701_StillsRaw_full and LabeledApproved_full .* or val and valannot"):
        CamVid(root, "val")


def test_a_check_knows_the_published_numbers(tmp_path):
    for split in ("train", "val", "test"):
        eleven(tmp_path, split, f"0001TP_00{len(split)}")
    report = check_dataset("camvid", tmp_path, progress=False)
    assert len(report.faults) == 3 and "train must hold 367 images" in report.faults[0]
    assert not check_dataset("camvid", tmp_path, partial=True, progress=False).faults
