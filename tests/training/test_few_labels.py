"""Training on a subset of the target, and with rare classes drawn more often: on record, and resumed exactly."""

import json
from pathlib import Path

import pytest

from tests.helpers import runs
from tmt.cli import train


def settings_of(out: Path, source_root: Path, target_root: Path) -> list[str]:
    more = ("--target.images=3", "--augment.rare_class_temperature=0.1", "--evaluation.flip")
    return runs.arguments(out, source_root, target_root, *more, steps=4)


def trained(argv: list[str], log: Path) -> Path:
    assert runs.finish(runs.start(runs.train, argv, log)) == 0, log.read_text()
    return Path(argv[0].removeprefix("--out="))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, source_root: Path, target_root: Path) -> Path:
    folder = tmp_path_factory.mktemp("few")
    return trained(settings_of(folder / "run", source_root, target_root), folder / "log")


def test_results_say_how_many_images(whole: Path) -> None:
    rows = json.loads((whole / "results.json").read_text())
    assert [row["method"] for row in rows["rows"]] == [
        "source only", "source only", "full fine-tuning (3 of 6 images)", "TMT (3 of 6 images)",
    ]  # fmt: skip
    assert rows["estimator"]["training_images"] == {"source": 6, "target": 3}
    assert json.loads((whole / "full" / "done.json").read_text())["training_images"] == 3
    assert "TMT (3 of 6 images)" in (whole / "results.md").read_text()


def test_classes_are_counted_once_of_what_is_trained_on(whole: Path) -> None:
    for role, images in (("source", 6), ("target", 3)):
        counts = json.loads((whole / f"class_counts-{role}.json").read_text())["counts"]
        assert len(counts) == images and all(sum(row) == 48 * 96 for row in counts)


def test_rare_classes_change_what_is_trained_on(
    whole: Path, tmp_path: Path, source_root: Path, target_root: Path
) -> None:
    more = ("--stages=source", "--evaluation.flip")
    plain = trained(runs.arguments(tmp_path / "run", source_root, target_root, *more, steps=4), tmp_path / "log")
    name = "source/model/model.safetensors"
    assert (whole / name).read_bytes() != (plain / name).read_bytes()
    assert not (plain / "class_counts-source.json").exists()


def test_resumed_exactly(whole: Path, tmp_path: Path, source_root: Path, target_root: Path) -> None:
    argv = settings_of(tmp_path / "run", source_root, target_root)
    for stage in ("source", "estimator", "full", "tmt"):
        trained([*argv, "--resume", f"--stages={stage}"], tmp_path / "log")
    for name in ("full/model/model.safetensors", "tmt/model/model.safetensors", "tmt/done.json"):
        assert (whole / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name


def test_more_images_than_there_are(
    tmp_path: Path, source_root: Path, target_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = runs.arguments(tmp_path / "run", source_root, target_root, "--target.images=7")
    assert train.main(argv) == 2
    message = capsys.readouterr().err
    assert f"target.images: must be at most the 6 training images of {target_root}, got 7" in message
    assert not (tmp_path / "run").exists()
