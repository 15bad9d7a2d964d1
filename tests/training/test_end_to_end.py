"""What a finished run leaves: the table, the pictures, models that load, and what evaluation says of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tmt
from tests.helpers import runs
from tmt.cli import evaluate
from tmt.data import CLASSES, LabelSet
from tmt.visualize import drawing, panels


def test_table_has_every_model(finished: Path) -> None:
    rows = json.loads((finished / "results.json").read_text())["rows"]
    assert [(row["method"], row["domain"], row["mask_rule"]) for row in rows] == [
        ("source only", "source cityscapes", "foreground"),
        ("source only", "target cityscapes", "foreground"),
        ("full fine-tuning", "target cityscapes", "foreground"),
        ("TMT", "target cityscapes", "foreground"),
    ]
    text = (finished / "results.md").read_text()
    for row in rows:
        assert row["last"]["miou"] <= 100 and row["best"]["step"] in (3, 6)
        assert f"{row['last']['miou']:.2f}" in text
    assert text.count("\n") == 2 + len(rows)


def test_last_and_best_are_both_kept(finished: Path) -> None:
    for stage in ("source", "full", "tmt"):
        result = json.loads((finished / stage / "done.json").read_text())
        assert result["last"]["step"] == 6
        assert result["best"]["score"] >= result["last"]["score"]
        for kind in ("model", "best"):
            model = tmt.TMTForSemanticSegmentation.from_pretrained(finished / stage / kind)
            assert model.config.transferability == (stage == "tmt")
            trained = (
                model.config.trained
            )  # of the best weights nothing is said, least of all the source model's scores
            assert trained is None if kind == "best" else trained["score"]["miou"] == result["last"]["miou"]


def test_run_is_on_record(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    assert record["seed"] == 0 and record["versions"]["torch"] == torch.__version__
    assert "--model.embed_dim=16" in record["command"] and record["processes"] == 1
    settings = (finished / "config.yaml").read_text()
    assert "embed_dim: 16" in settings and "kappa" in settings


def test_metrics_are_json_lines(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "tmt" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert all(len(line["allowed_fraction"]) == len(line["fallback_rate"]) == 3 for line in steps)
    assert all(line["lr"] > 0 and line["grad_norm"] > 0 for line in steps)
    assert [line["step"] for line in lines if "evaluation" in line] == [3, 6]


def test_learning_reduces_the_loss(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "source" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0] - 1


def test_estimator_goes_into_the_tmt_model(finished: Path) -> None:
    from safetensors.torch import load_file

    trained = load_file(finished / "estimator" / "estimator.safetensors")
    model = load_file(finished / "tmt" / "model" / "model.safetensors")
    assert all(torch.equal(model[f"estimator.{name}"], weights) for name, weights in trained.items())
    untrained = load_file(finished / "source" / "model" / "model.safetensors")
    assert not all(torch.equal(untrained[f"estimator.{name}"], weights) for name, weights in trained.items())


def test_estimator_is_reported(finished: Path) -> None:
    last = json.loads((finished / "estimator" / "done.json").read_text())["last"]
    assert last["proxy_a_distance"] == pytest.approx(2 * (1 - 2 * (1 - last["accuracy"])))
    assert 0 < last["transferability_target_mean"] < 1


def test_sheets_show_every_model(finished: Path) -> None:
    sheets = list((finished / "pictures").glob("*.png"))
    assert len(sheets) == 1
    sheet = np.asarray(Image.open(sheets[0]))
    assert sheet.shape[1] > 4 * panels.PANEL_WIDTH  # image, truth, three models, T and regions: four in a row
    height = panels.PANEL_WIDTH // 2 + panels.CAPTION_HEIGHT + panels.GAP
    assert 2 * height < sheet.shape[0] < 3 * height
    assert (sheet == drawing.BORDER_COLOUR).all(-1).any()


def evaluated(argv: list[str], log: Path) -> int:
    runs.redirect(log)
    return evaluate.main(argv)


def test_evaluate_command(finished: Path, tmp_path: Path, target_root: Path) -> None:
    """The command finds the scores that training reported, and draws."""
    argv = [f"{finished}/tmt/model", "--dataset=cityscapes", f"--root={target_root}", f"--out={tmp_path}/out"]
    assert runs.finish(runs.start(evaluated, [*argv, "--pictures=2", "--device=cpu"], tmp_path / "log")) == 0
    shown = (tmp_path / "log").read_text()
    assert "mIoU" in shown and all(name in shown for name in CLASSES)
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    expected = json.loads((finished / "tmt" / "done.json").read_text())["last"]
    for name in ("miou", "fwiou", "macc", "pacc", "iou", "pixels", "allowed_fraction"):
        assert found[name] == expected[name], name
    assert len(list((tmp_path / "out" / "pictures").glob("*.png"))) == 2
    assert "| road " in (tmp_path / "out" / "scores.md").read_text()


def test_evaluate_with_transferability_off(finished: Path, tmp_path: Path, target_root: Path) -> None:
    argv = [f"{finished}/tmt/model", "--dataset=cityscapes", f"--root={target_root}", f"--out={tmp_path}/out"]
    more = ["--transferability=false", "--device=cpu"]
    assert runs.finish(runs.start(evaluated, [*argv, *more], tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    expected = json.loads((finished / "tmt" / "done.json").read_text())["last"]
    assert found["allowed_fraction"] != expected["allowed_fraction"]


@pytest.mark.parametrize("classes, lines", [(3, 1), (19, 2), (65, 4)])
def test_legend_shows_every_class_below_the_panels(classes: int, lines: int) -> None:
    palette = np.random.default_rng(0).integers(0, 200, (classes, 3)).astype(np.uint8)
    label_set = LabelSet(tuple(f"traffic thing {i}" for i in range(classes)), palette)
    label = np.zeros((24, 48), dtype=np.uint8)
    drawn = panels.panels_of(np.zeros((24, 48, 3), dtype=np.uint8), label, {}, label_set)
    sheet = np.asarray(panels.compose(drawn, 4, label_set))
    below = panels.PANEL_WIDTH // 2 + panels.CAPTION_HEIGHT + 2 * panels.GAP
    assert sheet.shape[0] == below + lines * panels.CAPTION_HEIGHT
    shown = {tuple(pixel) for pixel in sheet[below:].reshape(-1, 3)}
    assert {tuple(colour) for colour in palette} <= shown
    assert (sheet[below - panels.GAP - 5, 600] == palette[0]).all()  # the ground truth's panel


def test_panels_and_maps() -> None:
    image = np.zeros((4, 6, 3), dtype=np.uint8)
    regions = np.repeat(np.array([[0, 1]]), 4, axis=0).repeat(3, axis=1)
    drawn = drawing.outline(image, regions)
    assert (drawn[:, 3] == drawing.BORDER_COLOUR).all() and not drawn[:, :3].any()
    colours = drawing.heat(np.array([[0.0, 1.0]]))
    assert colours[0, 0, 2] > colours[0, 0, 0] and colours[0, 1, 0] > colours[0, 1, 2]  # blue is low, red is high
    assert panels.spread(3, 11) == [0, 5, 10] and panels.spread(5, 2) == [0, 1] and panels.spread(1, 9) == [0]
