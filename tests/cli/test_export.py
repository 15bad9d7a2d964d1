"""`python -m tmt.export`: files that run without this package and give the labels of the model they were made of."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tmt.cli import export
from tmt.data import CITYSCAPES19, normalise
from tmt.data.transforms import MEAN, STD
from tmt.errors import TMTError
from tmt.inference import exported, exporting
from tmt.inference.sliding_window import segment_batch
from tmt.model.factory import freeze, new_model, open_model, transfer_switch
from tmt.settings import ModelConfig, TMTSettings
from tmt.synthetic import render

SIZE = 64, 96
SMALL = ModelConfig(
    backbone="resnet", widths=(8, 16, 24, 32), depths=(1, 1, 1, 1), hidden=32, ffn=32, encoder_ffn=32, encoder_layers=1,
    decoder_layers=2, attention_heads=2, queries=8, points=64,
)  # fmt: skip
ALONE = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tmt", "tmt_ext", "transformers"):
            raise ImportError(f"{name} is not to be used")

sys.meta_path.insert(0, Refuse())
import torch
facts = {"tmt.json": ""}
program = torch.export.load(sys.argv[1], extra_files=facts).module()
torch.save(program(torch.load(sys.argv[2]))[2], sys.argv[3])
print(json.loads(facts["tmt.json"])["classes"][0])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model whose classes differ enough from place to place that several win."""
    settings = TMTSettings(superpixel_iterations=2, cell=2, estimator_hidden=16)
    model = new_model(SMALL, settings, 0, CITYSCAPES19)
    *_, weight, _ = model.model.transformer_module.decoder.mask_predictor.parameters()
    with torch.no_grad():
        model.class_predictor.weight.normal_(generator=torch.Generator().manual_seed(1))
        weight.mul_(10)
    place = tmp_path_factory.mktemp("model")
    model.save_pretrained(place)
    return place


def command(folder: Path, out: Path, *more: str) -> list[str]:
    return [str(folder), f"--out={out}", "--size", "64", "96", "--images=2", *more]


def scenes(count: int) -> torch.Tensor:
    """Images that the command itself does not look at, (B, 3, H, W)."""
    return torch.stack([normalise(render("bdd100k", 7, i, SIZE)[0]) for i in range(count)])


def labels(folder: Path, pixels: torch.Tensor, transferability: bool | None = None) -> torch.Tensor:
    """(B, H, W) as `tmt.predict` has them."""
    model = open_model(folder, transfer_switch(transferability))
    freeze(model)
    return torch.stack([one.prediction for one in segment_batch(model, pixels, [""] * len(pixels))])


def check_facts(facts: dict) -> None:
    assert facts["mean"] == MEAN.tolist() and facts["deviation"] == STD.tolist() and facts["size"] == [*SIZE]
    assert facts["classes"] == list(CITYSCAPES19.names) and facts["transferability"] is True


def test_torch_program_without_transferability_runs_without_the_package(folder: Path, tmp_path: Path) -> None:
    out, given, found = (tmp_path / name for name in ("new/model.pt2", "images.pt", "labels.pt"))
    assert export.main(command(folder, out, "--format=torch", "--batch=2", "--transferability=false")) == 0
    assert [path.name for path in out.parent.iterdir()] == ["model.pt2"]
    torch.save(scenes(2), given)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(
        [sys.executable, "-c", ALONE, *map(str, (out, given, found))], capture_output=True, text=True, env=environment,
        cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0 and run.stdout == "road\n", run.stderr
    expected = labels(folder, scenes(2), transferability=False)
    assert len(expected.unique()) > 1 and (torch.load(found) == expected).double().mean() >= exported.EQUAL


def run_onnx(path: Path, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    from onnxruntime import InferenceSession

    session = InferenceSession(path)
    check_facts({name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()})
    arrays = session.run(list(exporting.OUTPUTS), {"pixel_values": pixels.numpy()})
    return dict(zip(exporting.OUTPUTS, map(torch.from_numpy, arrays), strict=True))


def test_onnx_with_transferability_takes_any_number_of_images(folder: Path, tmp_path: Path) -> None:
    for package in export.NEEDED["onnx"]:
        pytest.importorskip(package)
    out = tmp_path / "model.onnx"
    assert export.main(command(folder, out, "--dynamic=batch")) == 0
    for count in (1, 3):
        found = run_onnx(out, scenes(count))
        assert found["class_queries_logits"].shape == (count, 8, 20)
        assert found["masks_queries_logits"].shape == (count, 8, 16, 24)
        expected = labels(folder, scenes(count))
        assert len(expected.unique()) > 1 and (found["prediction"] == expected).double().mean() >= exported.EQUAL


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of nothing that say everything is class 200."""
    monkeypatch.setattr(exporting, "trace", lambda *_: None)
    monkeypatch.setattr(exporting, "save_torch", lambda program, facts, path: path.write_text("nothing"))
    monkeypatch.setattr(exported, "run_torch", lambda path: lambda pixels: torch.full_like(pixels[:, 0], 200))


@pytest.mark.usefixtures("untraced")
def test_a_file_that_differs_is_not_kept(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.pt2"
    out.write_text("old")
    assert export.main(command(folder, out, "--format=torch", "--overwrite")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {out}: at least 99.9% of the pixels must get the model's label, got 0.00% of 2")
    assert out.read_text() == "old" and list(tmp_path.iterdir()) == [out]


def test_one_pixel_in_a_thousand_may_differ(folder: Path) -> None:
    model, shape = open_model(folder), exporting.Shape(SIZE, batch=1, free=False)
    freeze(model)

    def run(wrong: int) -> exported.Run:
        def spoilt(pixels: torch.Tensor) -> torch.Tensor:
            found = labels(folder, pixels)
            found.flatten()[:wrong] += 1
            return found

        return spoilt

    assert exported.check(Path("f"), run(6), model, shape, images=1) == 1 - 6 / 6144
    with pytest.raises(TMTError, match="99.9%"):
        exported.check(Path("f"), run(7), model, shape, images=1)


@pytest.mark.parametrize(
    "more, said",
    [
        ("--out model.onnx --dynamic size", "dynamic: must be batch or left out, got size: "),
        ("--out model.pt2", "out: must end with .onnx for --format onnx, got model.pt2"),
        ("--out model.onnx --format torch", "out: must end with .pt2 for --format torch, got model.onnx"),
        ("--out there.pt2 --format torch", "out: there.pt2 exists; choose another --out, or --overwrite it"),
        ("--out folder.pt2 --format torch --overwrite", "out: folder.pt2 exists; choose another --out"),
        ("--out there.pt2/x.pt2 --format torch", "out: there.pt2 cannot be written"),
        ("--out model.pt2 --format torch --size 16 96", "size: must be 2 values, each a whole number of at least 32"),
        ("--out model.pt2 --format torch --batch 0", "batch: must be a whole number of at least 1, got 0"),
        ("--out model.pt2 --format tflite", "format: must be one of torch, onnx, got"),
        ("--out model.pt2 --format torch", "nowhere/config.json: no such file"),
    ],
)
def test_mistakes_are_one_line(
    more: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export, "find_spec", lambda name: object())
    Path("there.pt2").write_text("old")
    Path("folder.pt2").mkdir()
    assert export.main(["nowhere", *more.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {said}")
    assert {path.name for path in tmp_path.iterdir()} == {"there.pt2", "folder.pt2"}


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else object())
    assert export.main(["nowhere", f"--out={tmp_path / 'model.onnx'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: format: onnx needs the package onnxscript, which is not installed; ")
    assert "[export]" in line
