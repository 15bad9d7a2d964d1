"""`python -m tmt.data check`: clean on the synthetic sets, and every planted fault is one line that names the file."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from tests.data.trees import palette_label, picture, png, put
from tmt.cli.data import main
from tmt.data.check import check_dataset, odd_palettes
from tmt.data.labels import IGNORE
from tmt.errors import DataError
from tmt.synthetic import DOMAINS

SIZE = (32, 64)


def first(root, pattern):
    return sorted(root.glob(pattern))[0]


@pytest.mark.parametrize("name", DOMAINS)
@pytest.mark.parametrize("workers", [0, 2])
def test_synthetic_sets_are_clean(made, name, workers):
    report = check_dataset(name, made[name], workers=workers, progress=False)
    assert report.faults == report.warnings == [] and report.synthetic
    train = report.splits["train"]
    assert (train.images, report.splits["val"].images) == (6, 3) and train.sizes == {"32 x 64": 6}
    assert sum(train.classes.values()) + train.ignored == 6 * 32 * 64 and train.classes["road"] > 0


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def raw_ids(path):
    put(path, png(np.resize(np.arange(41, dtype=np.uint8), SIZE), 8, 0))


def colour_coded(path):
    put(path, png(picture(0, SIZE), 8, 2))


def eight_bits(path):
    put(path, png(np.full((*SIZE, 3), 3, np.uint8), 8, 2))


def other_size(path):
    put(path, png(np.zeros((16, 64), np.uint8), 8, 0))


def upside_down(path):
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(path) as file:
        file.save(path, exif=exif)


def as_jpeg(path):
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(path, format="JPEG")


def damaged(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def unlink(path):
    path.unlink()


CITY_LABEL, CITY_IMAGE = "gtFine/train/*/*_labelIds.png", "leftImg8bit/train/*/*.png"
BDD_LABEL, BDD_IMAGE = "labels/sem_seg/masks/val/*.png", "images/10k/val/*.jpg"
FAULTS = {
    "a label is missing": ("cityscapes", CITY_LABEL, unlink, "label must exist, got no such file"),
    "an image is missing": ("gtav", "images/*.png", unlink, "image must exist, got no such file"),
    "a label has no image": ("bdd100k", BDD_IMAGE, unlink, None),
    "an image is cut off": ("bdd100k", BDD_IMAGE, cut, "must be a complete image file, got"),
    "a label is cut off": ("synthia", "GT/LABELS/*.png", cut, "got a truncated PNG"),
    "a label is damaged": ("mapillary", "training/labels/*.png", damaged, "got a wrong checksum"),
    "a label is empty": ("gtav", "labels/*.png", empty, "got an empty file"),
    "a mask has raw ids": ("bdd100k", BDD_LABEL, raw_ids, "is it BDD100K's raw encoding, 0-40"),
    "a label is colour-coded": ("cityscapes", CITY_LABEL, colour_coded, "image mode must be L, got RGB"),
    "a label has 8 bits": ("synthia", "GT/LABELS/*.png", eight_bits, "must be a 16-bit RGB PNG, got 8 bits"),
    "a label has another size": (
        "mapillary",
        "validation/labels/*.png",
        other_size,
        "label must have the image's size",
    ),
    "an image is upside down": ("bdd100k", BDD_IMAGE, upside_down, "got EXIF orientation 3"),
    "a label is a JPEG": ("gtav", "labels/*.png", as_jpeg, "label must be a PNG file, got JPEG"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_planted_fault_is_one_line_that_names_the_file(made, tmp_path, case):
    name, pattern, spoil, message = FAULTS[case]
    root = shutil.copytree(made[name], tmp_path / name)
    path = first(root, pattern)
    spoil(path)
    report = check_dataset(name, root, partial=message is None, progress=False)
    (fault,) = report.faults
    if message is None:  # the label that is left is what can be named
        path, message = first(root, BDD_LABEL), "label must have an image, got none"
    assert str(path) in fault and message in fault and "\n" not in fault and report.warnings == []


def test_all_faults_of_a_set_are_found_at_once(made, tmp_path):
    root = shutil.copytree(made["gtav"], tmp_path / "gtav")
    for number, spoil in enumerate((cut, empty, damaged, unlink, as_jpeg, raw_ids), start=1):
        spoil(root / "labels" / f"{number:05d}.png")
    report = check_dataset("gtav", root, workers=2, progress=False)
    assert len(report.faults) == 6
    for number in range(1, 7):
        assert sum(f"labels/{number:05d}.png" in fault for fault in report.faults) == 1


def test_folders_lists_and_tables_that_are_wrong_are_named(made, tmp_path):
    city = shutil.copytree(made["cityscapes"], tmp_path / "cityscapes")
    shutil.rmtree(city / "gtFine" / "val")
    (fault,) = check_dataset("cityscapes", city, progress=False).faults
    assert "gtFine/val must exist" in fault
    vistas = shutil.copytree(made["mapillary"], tmp_path / "mapillary")
    config = json.loads((vistas / "config.json").read_text())
    config["labels"].reverse()
    put(vistas / "config.json", json.dumps(config))
    faults = check_dataset("mapillary", vistas, progress=False).faults
    assert len(faults) == 2 and all("config.json: label 0 must be 'Bird'" in fault for fault in faults)


def test_an_image_in_two_splits_is_named(made, tmp_path):
    root = shutil.copytree(made["gtav"], tmp_path / "gtav")
    split = loadmat(root / "split.mat")
    savemat(root / "split.mat", {key: split[key] for key in ("trainIds", "testIds")} | {"valIds": [[7], [8], [2]]})
    (fault,) = check_dataset("gtav", root, progress=False).faults
    assert "images/00002.png: image must be of one split, got both train and val" in fault


def test_one_picture_under_two_names_is_warned_of(made, tmp_path):
    root = shutil.copytree(made["bdd100k"], tmp_path / "bdd100k")
    seen, scored = first(root, "images/10k/train/*.jpg"), first(root, "images/10k/val/*.jpg")
    shutil.copyfile(seen, scored)
    report = check_dataset("bdd100k", root, progress=False)
    assert report.faults == [] and len(report.warnings) == 1
    assert f"{scored}: image is the same file as {seen}" in report.warnings[0]


def test_files_that_are_not_read_are_warned_of(made, tmp_path):
    root = shutil.copytree(made["bdd100k"], tmp_path / "bdd100k")
    put(root / "images/10k/val/photo.heic", b"x")
    report = check_dataset("bdd100k", root, progress=False)
    assert report.faults == [] and len(report.warnings) == 1
    assert "images/10k/val: 1 files are not read, such as photo.heic" in report.warnings[0]


def test_numbers_of_images_are_compared(made, tmp_path):
    root = shutil.copytree(made["bdd100k"], tmp_path / "bdd100k")
    for pattern in (BDD_IMAGE, BDD_LABEL):
        first(root, pattern).unlink()
    (fault,) = check_dataset("bdd100k", root, progress=False).faults
    assert f"{root}: val must hold 3 images, as synthetic.json does, got 2" in fault
    assert check_dataset("bdd100k", root, partial=True, progress=False).faults == []
    assert check_dataset("bdd100k", root, ["train"], progress=False).faults == []
    (root / "synthetic.json").unlink()
    real = check_dataset("bdd100k", root, progress=False)
    assert [fault.split("; ")[0].split(": ")[1] for fault in real.faults] == [
        "train must hold 7000 images, as the published set does, got 6",
        "val must hold 1000 images, as the published set does, got 2",
    ]


def test_synthetic_images_of_another_size_are_named(made, tmp_path):
    root = shutil.copytree(made["bdd100k"], tmp_path / "bdd100k")
    path = put(first(root, BDD_IMAGE), picture(0, (64, 64)))
    put(first(root, BDD_LABEL), png(np.zeros((64, 64), np.uint8), 8, 0))
    (fault,) = check_dataset("bdd100k", root, progress=False).faults
    assert f"{path}: image must have the size (32, 64) of synthetic.json, got (64, 64)" in fault


def test_suspicious_files_are_warned_of(made, tmp_path):
    root = shutil.copytree(made["gtav"], tmp_path / "gtav")
    put(root / "labels" / "00002.png", palette_label(np.full(SIZE, 7, np.uint8)))
    put(root / "labels" / "00003.png", png(np.zeros((30, 60), np.uint8), 8, 0))
    report = check_dataset("gtav", root, progress=False)
    assert report.faults == [] and len(report.warnings) == 4
    for text in (
        "00002.png: palette differs from that of",
        "00003.png: palette differs from that of",
        "00003.png: label (30, 60) resized to (32, 64)",
        "00003.png: no pixel has a class",
    ):
        assert sum(text in warning for warning in report.warnings) == 1
    assert list(odd_palettes([], [])) == []


def test_the_command_reports_and_exits(made, tmp_path, capsys):
    arguments = ["check", "synthia", str(made["synthia"]), "--out", str(tmp_path / "out"), "--workers", "0"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith(f"synthia {made['synthia']}: clean, 0 warnings") and "  road" in "\n".join(lines)
    content = json.loads((tmp_path / "out/report.json").read_text())
    assert content["clean"] and content["splits"]["val"]["images"] == 3
    with Image.open(tmp_path / "out/contact.png") as file:
        assert file.width > 1000
        left, right = np.array(file)[20:170, 4:324], np.array(file)[20:170, 328:648]
    assert np.abs(left.astype(int) - right).mean() > 10  # the second is under its label's colours


def test_the_command_exits_with_one_where_something_is_wrong(made, tmp_path, capsys):
    root = shutil.copytree(made["synthia"], tmp_path / "synthia")
    path = first(root, "GT/LABELS/*.png")
    eight_bits(path)
    arguments = ["check", "synthia", str(root), "--out", str(tmp_path / "out"), "--workers", "0", "--splits", "train"]
    assert main(arguments) == 1
    output = capsys.readouterr().out
    assert f"fault: {path}: must be a 16-bit RGB PNG" in output and "1 faults" in output
    assert not json.loads((tmp_path / "out/report.json").read_text())["clean"]


def test_nothing_readable_still_reports(tmp_path, capsys):
    assert main(["check", "folders", str(tmp_path), "--out", str(tmp_path / "out"), "--workers", "0"]) == 1
    assert "folder" in capsys.readouterr().out and not (tmp_path / "out/contact.png").exists()


def test_wrong_commands_are_one_line(made, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    unwritable = ["gtav", str(made["gtav"]), "--out", str(tmp_path / "file" / "x")]
    for arguments, wrong in ((["kitti", str(tmp_path)], "dataset: "), (unwritable, "out: ")):
        assert main(["check", *arguments, "--workers", "0"]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {wrong}")
    with pytest.raises(DataError, match="check: dataset must be one of"):
        check_dataset("kitti", tmp_path)


def test_own_datasets_are_checked_too(tmp_path):
    put(tmp_path / "classes.csv", "id,name,train_id\n1,a,0\n2,b,1\n")
    for split in ("day", "night"):
        put(tmp_path / "images" / split / "x.png", picture())
        put(tmp_path / "labels" / split / "x.png", png(np.full((20, 40), 1 + (split == "day"), np.uint8), 8, 0))
    report = check_dataset("folders", tmp_path, progress=False)
    assert report.faults == [] and report.splits["day"].classes == {"a": 0, "b": 800}
    put(tmp_path / "labels" / "night" / "y.png", png(np.full((20, 40), IGNORE, np.uint8), 8, 0))
    (fault,) = check_dataset("folders", tmp_path, progress=False).faults
    assert "night/y.png: label must have an image" in fault


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_nobody_labelled(tmp_path, capsys, workers):
    for name in ("a", "b", "c"):
        put(tmp_path / "set/images/train" / f"{name}.png", picture())
    arguments = ["check", "folders", str(tmp_path / "set"), "--out", str(tmp_path / "out"), "--workers", str(workers)]
    assert main(arguments) == 1  # labels and a table are asked for
    assert not (tmp_path / "out/contact.png").exists()
    capsys.readouterr()
    assert main([*arguments, "--labelled=false"]) == 0
    output = capsys.readouterr().out
    assert "train: 3 images (3 of 20 x 40)" in output and "%" not in output and "road" not in output
    assert output.count("warning: ") == 2 and "image is the same file as" in output
    assert json.loads((tmp_path / "out/report.json").read_text())["splits"]["train"]["images"] == 3
    with Image.open(tmp_path / "out/contact.png") as file:
        assert file.height > 150
    (tmp_path / "set/images/train/b.png").write_bytes(b"no picture")
    assert main([*arguments, "--labelled=false"]) == 1
    (fault,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fault: ")]
    assert "b.png" in fault


def test_labels_that_are_there_are_not_asked(made, tmp_path):
    root = shutil.copytree(made["synthia"], tmp_path / "synthia")
    for path in root.glob("GT/LABELS/*.png"):
        path.unlink()
    assert check_dataset("synthia", root, progress=False).faults
    report = check_dataset("synthia", root, labelled=False, progress=False)
    assert report.faults == [] and report.splits["val"].images == 3
