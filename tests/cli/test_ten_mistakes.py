"""Ten inputs that must end in one clear line, through the commands: what is wrong, what was found, how to mend it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import ConvNextConfig, Dinov2Config

from tests.cli.test_class_maps import write_folders
from tests.data.trees import png, put
from tests.helpers import runs
from tmt.cli import predict, train
from tmt.data.files import tell_again

Capture = pytest.CaptureFixture[str]
NAMES = ("blue", "grey", "red")
FORGETFUL = "class,name\nblue,sky\ngrey,drivable\n"
STAGES = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}


def hub(folder: Path, root: Path) -> list[str]:
    return ["--model.backbone=facebook/convnext-tiny-224"]


def patch(folder: Path, root: Path) -> list[str]:
    Dinov2Config(
        patch_size=12, image_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=2
    ).save_pretrained(folder / "vit")
    return [f"--model.backbone={folder}/vit"]


def weightless(folder: Path, root: Path) -> list[str]:
    ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], **STAGES).save_pretrained(folder / "bare")
    return [f"--model.backbone={folder}/bare", "--model.backbone_weights=pretrained"]


def forgetful(folder: Path, root: Path) -> list[str]:
    (folder / "map.csv").write_text(FORGETFUL)
    return [f"--data.{role}_classes={folder}/map.csv" for role in ("source", "target")]


def apart(folder: Path, root: Path) -> list[str]:
    for role, prefix in (("source", "near"), ("target", "far")):
        rows = "".join(f"{name},{prefix} {name}\n" for name in NAMES)
        (folder / f"{role}.csv").write_text(f"class,name\n{rows}")
    return [f"--data.{role}_classes={folder}/{role}.csv" for role in ("source", "target")]


def colour(folder: Path, root: Path) -> list[str]:
    (root / "classes.csv").write_text("id,name,train_id,red,green,blue\n0,dark,0,0,0,0\n1,light,1,9,9,9\n")
    for label in root.glob("labels/*/*.png"):
        picture = np.zeros((48, 96, 3), np.uint8)
        picture[5, 7] = (1, 2, 3)
        put(label, picture)
    return []


def high(folder: Path, root: Path) -> list[str]:
    put(root / "labels/train/0.png", png(np.full((48, 96), 300, np.uint16), 16, 0))
    return []


def empty(folder: Path, root: Path) -> list[str]:
    for image in (root / "images/val").iterdir():
        image.unlink()
    return []


def void(folder: Path, root: Path) -> list[str]:
    (root / "classes.csv").write_text("id,name,train_id\n0,blue,0\n1,grey,1\n2,red,2\n9,void,255\n")
    for label in (root / "labels/train").iterdir():
        put(label, np.full((48, 96), 9, np.uint8))
    return []


MISTAKES: dict[str, tuple[Callable[[Path, Path], list[str]], str]] = {
    "a hub id without network": (hub, "the hub cannot be reached for a model of that id, got facebook/convnext"),
    "a patch that does not divide": (patch, "got 12"),
    "a configuration without weights": (weightless, "without weights; add them, or set random"),
    "a class map that forgets a class": (forgetful, "a line for each class of folders, got none for red"),
    "domains that share no class": (apart, "none in common"),
    "an unknown colour": (colour, "got (1, 2, 3) at row 5, column 7"),
    "label ids above 255": (high, "got 300"),
    "an empty split": (empty, "got none; add images"),
    "images that are all void": (void, "labels must give a pixel a class, got 255 alone"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_training_is_refused_in_one_line(
    mistake: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    root = write_folders(tmp_path / "mine", NAMES)
    make, said = MISTAKES[mistake]
    more = make(tmp_path, root)
    given = ("--data.source=folders", "--data.target=folders", "--stages=source", *more)
    assert train.main(runs.arguments(tmp_path / "run", root, root, *given, steps=2)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ") and said in lines[-1]
    assert not any("Traceback" in line for line in lines)


def test_a_deep_grey_image_is_predicted_with_one_line(finished: Path, tmp_path: Path) -> None:
    put(tmp_path / "in/deep.png", png(np.full((48, 96), 30_000, np.uint16), 16, 0))
    tell_again()
    argv = [str(finished / "source/model"), str(tmp_path / "in"), f"--out={tmp_path}/out", "--save=labels"]
    with pytest.warns(UserWarning, match="16-bit grey images are converted to 8-bit RGB") as told:
        assert predict.main([*argv, "--device=cpu"]) == 0
    assert len(told) == 1 and (tmp_path / "out/labels/deep.png").is_file()
