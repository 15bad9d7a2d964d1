"""`python -m tmt.export`: files that run without this package and give the labels of the model they were made of."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.tiny_backbones import tiny
from tmt.cli import export
from tmt.data import CITYSCAPES19, IMAGENET, normalise
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
    return saved(SMALL, tmp_path_factory.mktemp("model"), cell=2)


@pytest.fixture(scope="module")
def swin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of a Swin, whose windows do not fit its maps, with superpixels that do not either."""
    swin = {"backbone": "swin", "embed_dim": 16, "depths": (1, 1, 2, 1), "heads": (1, 2, 2, 2), "window": 3}
    return saved(dataclasses.replace(SMALL, **swin), tmp_path_factory.mktemp("swin"), cell=3)


def saved(config: ModelConfig, place: Path, cell: int) -> Path:
    """A saved model whose classes differ enough from place to place that several win."""
    model = new_model(config, TMTSettings(superpixel_iterations=2, cell=cell, estimator_hidden=16), 0, CITYSCAPES19)
    *_, weight, _ = model.model.transformer_module.decoder.mask_predictor.parameters()
    with torch.no_grad():
        model.class_predictor.weight.normal_(generator=torch.Generator().manual_seed(1))
        weight.mul_(10)
    model.save_pretrained(place)
    return place


def command(folder: Path, out: Path, *more: str) -> list[str]:
    return [str(folder), f"--out={out}", "--size", "64", "96", "--images=2", *more]


def scenes(count: int, size: tuple[int, int] = SIZE) -> torch.Tensor:
    """Images that the command itself does not look at, (B, 3, H, W)."""
    return torch.stack([normalise(render("bdd100k", 7, i, size)[0]) for i in range(count)])


def labels(folder: Path, pixels: torch.Tensor, transferability: bool | None = None) -> torch.Tensor:
    """(B, H, W) as `tmt.predict` has them."""
    model = open_model(folder, transfer_switch(transferability))
    freeze(model)
    return torch.stack([one.prediction for one in segment_batch(model, pixels, [""] * len(pixels))])


def check_facts(facts: dict, size: list[int] | None) -> None:
    assert facts["mean"] == MEAN.tolist() and facts["deviation"] == STD.tolist()
    assert facts["size"] == size and facts["multiple"] == (32 if size is None else None)
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


def run_onnx(path: Path, pixels: torch.Tensor, size: list[int] | None) -> dict[str, torch.Tensor]:
    from onnxruntime import InferenceSession

    session = InferenceSession(path)
    check_facts({name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}, size)
    arrays = session.run(list(exporting.OUTPUTS), {"pixel_values": pixels.numpy()})
    return dict(zip(exporting.OUTPUTS, map(torch.from_numpy, arrays), strict=True))


def test_onnx_with_transferability_takes_any_number_of_images(folder: Path, tmp_path: Path) -> None:
    for package in export.NEEDED["onnx"]:
        pytest.importorskip(package)
    out = tmp_path / "model.onnx"
    assert export.main(command(folder, out, "--dynamic=batch")) == 0
    for count in (1, 3):
        found = run_onnx(out, scenes(count), [*SIZE])
        assert found["class_queries_logits"].shape == (count, 8, 20)
        assert found["masks_queries_logits"].shape == (count, 8, 16, 24)
        expected = labels(folder, scenes(count))
        assert len(expected.unique()) > 1 and (found["prediction"] == expected).double().mean() >= exported.EQUAL


ANY = ((64, 64), (96, 224), (288, 160))
"""Sizes that the command does not look at: windows of Swin that fit, one that holds a map, and several that do not."""


def test_onnx_of_a_swin_takes_any_size(swin_folder: Path, tmp_path: Path) -> None:
    for package in export.NEEDED["onnx"]:
        pytest.importorskip(package)
    out = tmp_path / "model.onnx"
    assert export.main(command(swin_folder, out, "--dynamic=size")) == 0
    model = open_model(swin_folder)
    freeze(model)
    for size in ANY:
        found = run_onnx(out, scenes(1, size), None)
        with torch.no_grad():
            expected = model(scenes(1, size)).masks_queries_logits
        assert expected.std((2, 3)).min() > 0.01  # one class wins everywhere, so labels would not tell
        torch.testing.assert_close(found["masks_queries_logits"], expected, rtol=0, atol=1e-4)
        assert (found["prediction"] == labels(swin_folder, scenes(1, size))).double().mean() >= exported.EQUAL


def test_torch_program_takes_any_size(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.pt2"
    assert export.main(command(folder, out, "--format=torch", "--dynamic=size", "--batch=2")) == 0
    run = exported.run_torch(out)
    for size in ANY:
        expected = labels(folder, scenes(2, size))
        assert len(expected.unique()) > 1 and (run(scenes(2, size)) == expected).double().mean() >= exported.EQUAL


def test_a_backbone_that_fixes_its_size_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny("dinov2").save_pretrained("dinov2")
    config = dataclasses.replace(SMALL, backbone="dinov2", backbone_weights="random")
    model = saved(config, tmp_path / "model", cell=2)
    assert export.main(command(model, Path("model.pt2"), "--format=torch", "--dynamic=size")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: dynamic: the backbone dinov2 cannot be recorded for every size (")
    assert line.endswith("); leave --dynamic out and export a file for each --size")
    assert not list(tmp_path.glob("*.pt2"))


def test_sizes_that_are_tried() -> None:
    assert exporting.Shape((64, 96), 1).sizes == exporting.Shape((64, 96), 2, "batch").sizes == ((64, 96),)
    assert exporting.Shape((64, 96), 1, "size").sizes == ((64, 96), (96, 64), (96, 128))
    assert exporting.Shape((4096, 4096), 1, "size").sizes == ((4096, 4096),)
    few = list(exported.batches(exporting.Shape((64, 96), 2, "size"), 7, IMAGENET))
    assert [tuple(one.shape) for one in few] == [(2, 3, 64, 96)] * 2 + [(2, 3, 96, 64)] * 2 + [(2, 3, 96, 128)] * 2
    few = list(exported.batches(exporting.Shape((64, 96), 2, "batch"), 3, IMAGENET))
    assert [len(one) for one in few] == [2, 2, 1]


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
    model, shape = open_model(folder), exporting.Shape(SIZE, batch=1)
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
        ("--out model.onnx --dynamic size --size 64 100", "size: must be multiples of 32 from 64 to 4096 where it is"),
        ("--out model.onnx --dynamic size --size 32 64", "size: must be multiples of 32 from 64 to 4096 where it is"),
        ("--out model.onnx --dynamic size --size 64 8192", "size: must be multiples of 32 from 64 to 4096 where it is"),
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
