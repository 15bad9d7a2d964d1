"""Scores of whole datasets: equal to other libraries' on the same pictures, each image counted once."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
from PIL import Image
from torchmetrics import classification

from tests.helpers import runs, scenes
from tests.helpers.reader_model import Reader, encode
from tmt.cli import evaluate, predict
from tmt.data import CLASSES, lookup_table
from tmt.model import factory as models

Capture = pytest.CaptureFixture[str]
IGNORED_IDS = (0, 1, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
SIZE = (40, 64)


def label_pair(seed: int, absent: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Label ids of the ground truth (H, W) with ignored pixels and without the classes `absent`, and a prediction in
    train ids that is right half the time and knows all classes."""
    rng = np.random.default_rng(seed)
    to_train = lookup_table("cityscapes")
    ids = [i for i in range(34) if to_train[i] not in (*absent, 255)]
    blocks = rng.choice(ids, (SIZE[0] // 4, SIZE[1] // 4)).repeat(4, 0).repeat(4, 1)
    label = np.where(rng.random(SIZE) < 0.15, rng.choice(IGNORED_IDS, SIZE), blocks).astype(np.uint8)
    guess = rng.integers(0, 19, SIZE)
    guess[guess == 16] = 3
    truth = to_train[label]
    return label, np.where((rng.random(SIZE) < 0.5) & (truth != 255), truth, guess).astype(np.uint8)


def write(root: Path, count: int, absent: tuple[int, ...]) -> Path:
    """A Cityscapes tree of random labels whose images show what `Reader` is to predict."""
    for i in range(count):
        city = ("aachen", "zurich")[i % 2]
        label, prediction = label_pair(i, absent)
        for place, suffix, pixels in (
            ("leftImg8bit", "leftImg8bit", encode(prediction)),
            ("gtFine", "gtFine_labelIds", label),
        ):
            folder = root / place / "val" / city
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{city}_{i:06d}_000019_{suffix}.png")
    return root


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    model = Reader()
    monkeypatch.setattr(models, "load_model", lambda folder, adapt: model)
    return model


def ours(root: Path, out: Path) -> dict:
    argv = ["model", "--dataset=cityscapes", f"--root={root}", f"--out={out}", "--device=cpu"]
    assert evaluate.main(argv) == 0
    return json.loads((out / "metrics.json").read_text())


def officials(root: Path, predictions: Path) -> dict:
    """What the evaluation script of Cityscapes finds; it looks for the predictions by their names."""
    truth = sorted(str(path) for path in (root / "gtFine" / "val").rglob("*_labelIds.png"))
    official.args.predictionPath, official.args.predictionWalk = str(predictions), None
    official.args.evalInstLevelScore = official.args.JSONOutput = False  # instances are not ours
    official.args.quiet = True
    found = [official.getPrediction(official.args, path) for path in truth]
    return official.evaluateImgLists(found, truth, official.args)


@pytest.mark.parametrize("absent", [(), (4, 14, 16, 18), (0, 1, 2, 3, 5, 7, 8, 9, 10, 11, 12, 15, 16)])
def test_equal_to_the_official_evaluator_and_torchmetrics(absent: tuple[int, ...], reader, tmp_path: Path) -> None:
    root = write(tmp_path / "data", 5, absent)
    found = ours(root, tmp_path / "evaluated")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    argv = [f"{tmp_path}/model", f"{root}/leftImg8bit/val", f"--out={tmp_path}/out", "--ids=label", "--device=cpu"]
    assert predict.main(argv) == 0  # overlays are written, too, and do not disturb the script

    theirs = officials(root, tmp_path / "out" / "labels")
    expected = [100 * theirs["classScores"][name] for name in CLASSES]
    assert [np.nan if value is None else value for value in found["iou"]] == pytest.approx(
        expected, abs=1e-6, nan_ok=True
    )
    assert found["miou_mmseg"] == pytest.approx(100 * theirs["averageScoreClasses"], abs=1e-6)
    present = [value for value, pixels in zip(expected, found["pixels"], strict=True) if pixels]
    assert found["miou"] == pytest.approx(np.mean(present), abs=1e-6)
    assert len(present) == 19 - len(absent)

    pairs = [label_pair(i, absent) for i in range(5)]
    truth, prediction = (torch.from_numpy(np.stack(part)).long() for part in zip(*pairs, strict=True))
    compare_with_torchmetrics(found, torch.from_numpy(lookup_table("cityscapes").copy())[truth].long(), prediction)


def compare_with_torchmetrics(found: dict, truth: torch.Tensor, prediction: torch.Tensor) -> None:
    """Every score from torchmetrics' own confusion matrix and classes, in float64 where it counts."""
    options = {"num_classes": 19, "ignore_index": 255}
    confusion = classification.MulticlassConfusionMatrix(**options)(prediction, truth).double()
    right, gt, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    assert found["pixels"] == gt.long().tolist()
    jaccard = classification.MulticlassJaccardIndex(average="none", **options)(prediction, truth)
    seen, present = (gt + predicted) > 0, gt > 0
    values = torch.tensor([np.nan if value is None else value for value in found["iou"]], dtype=torch.float64)
    torch.testing.assert_close(values[seen], 100 * jaccard[seen].double(), rtol=0, atol=1e-4)  # float32 there
    exact = 100 * right / (gt + predicted - right)
    torch.testing.assert_close(values[seen], exact[seen], rtol=0, atol=1e-6)
    assert found["fwiou"] == pytest.approx(float((exact[present] * gt[present]).sum() / gt.sum()), abs=1e-6)
    assert found["pacc"] == pytest.approx(float(100 * right.sum() / gt.sum()), abs=1e-6)
    recall = classification.MulticlassRecall(average="none", **options)(prediction, truth)
    assert found["macc"] == pytest.approx(100 * float(recall[present].double().mean()), abs=1e-4)


def test_an_image_that_the_model_cannot_judge_is_named(reader, tmp_path: Path, capsys: Capture) -> None:
    root = write(tmp_path / "data", 2, absent=())
    reader.spoil(iter((1.0, np.nan)))
    assert evaluate.main(["model", "--dataset=cityscapes", f"--root={root}", "--device=cpu"]) == 2
    message = capsys.readouterr().err
    assert "zurich_000001_000019" in message and "class scores must be finite, got 100% that" in message


def test_every_convention_is_printed(reader, tmp_path: Path, capsys: Capture) -> None:
    root = write(tmp_path / "data", 2, absent=(4, 16))  # 4 is predicted, 16 is not
    found = ours(root, tmp_path / "out")
    shown = capsys.readouterr().out
    for title, name in (
        ("mIoU (headline)", "miou"), ("mIoU, absent classes too", "miou_mmseg"), ("mIoU over all 19", "miou_all"),
        ("mIoU, SYNTHIA 16", "miou_16"), ("mIoU, SYNTHIA 13", "miou_13"), ("fwIoU", "fwiou"), ("mACC", "macc"),
        ("pACC", "pacc"),
    ):  # fmt: skip
        line = next(line for line in shown.splitlines() if line.startswith(f"| {title} "))
        assert f" {found[name]:.2f} " in line
    assert len({found[name] for name in ("miou", "miou_mmseg", "miou_all", "miou_16", "miou_13")}) == 5
    assert found["classes"] == list(CLASSES) and found["evaluated"]["scales"] == [1.0]
    assert (tmp_path / "out" / "scores.md").read_text() in shown


def test_classes_must_be_the_datasets(finished: Path, tmp_path: Path, capsys: Capture) -> None:
    from tests.cli.test_own_dataset import write_folders

    root = write_folders(tmp_path / "mine", "day")
    model = str(finished / "source" / "model")
    assert evaluate.main([model, "--dataset=folders", f"--root={root}", "--device=cpu"]) == 2
    message = capsys.readouterr().err
    assert "3 (ground, wall, sky), got 19 (road, sidewalk" in message and message.count("\n") == 1


def test_mapillary_settings_without_mapillary(tmp_path: Path, capsys: Capture) -> None:
    argv = ["model", "--dataset=cityscapes", f"--root={tmp_path}", "--mapillary_mapping=broad", "--device=cpu"]
    assert evaluate.main(argv) == 2
    assert "mapillary_mapping: is for the dataset mapillary, got broad for cityscapes" in capsys.readouterr().err


def evaluated(argv: list[str], log: Path, variables: dict[str, str]) -> int:
    os.environ.update(variables)
    runs.redirect(log)
    return evaluate.main(argv)


def scores_of(processes: int, model: Path, root: Path, out: Path) -> dict:
    """The command's result on some processes."""
    argv = [str(model), "--dataset=cityscapes", f"--root={root}", f"--out={out}", "--device=cpu"]
    argv += ["--window=32,64", "--flip"]
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(runs.free_port()), "WORLD_SIZE": str(processes)}
    started = [
        runs.start(evaluated, argv, out.with_suffix(f".{rank}"), {**world, "RANK": str(rank)})
        for rank in range(processes)
    ]
    logs = [out.with_suffix(f".{rank}") for rank in range(processes)]
    assert runs.finish_all(started) == [0] * processes, "".join(log.read_text() for log in logs)
    return json.loads((out / "metrics.json").read_text())


@pytest.mark.parametrize("images", [1, 3])
def test_two_processes_count_each_image_once(images: int, finished: Path, tmp_path: Path) -> None:
    root = scenes.write(tmp_path / "data", "target", train=1, val=images)
    model = finished / "tmt" / "model"
    one, two = (scores_of(processes, model, root, tmp_path / str(processes)) for processes in (1, 2))
    assert two["images"] == images and sum(two["pixels"]) == images * scenes.HEIGHT * scenes.WIDTH
    for name in ("iou", "accuracy", "pixels", "miou", "miou_mmseg", "fwiou", "pacc"):
        assert one[name] == two[name], name
    for name in ("allowed_fraction", "fallback_rate"):
        assert one[name] == pytest.approx(two[name], abs=1e-12)
