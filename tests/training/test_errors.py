"""Bad input: exit code 2, one line that names the value and the mend, nothing half-written."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import BertConfig

from tests.helpers import runs
from tests.helpers.small_disk import no_file_above
from tmt.cli import evaluate, train
from tmt.training import checkpoint

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def roots(tmp_path: Path, source_root: Path, target_root: Path) -> tuple[Path, Path]:
    """Copies of the two datasets to be damaged."""
    copies = tmp_path / "source", tmp_path / "target"
    for original, copy in zip((source_root, target_root), copies, strict=True):
        shutil.copytree(original, copy)
    return copies


def error_of(entry, argv: list[str], capsys: Capture) -> str:
    """The one line that an entry point leaves on stderr, beside its progress bars."""
    torch.set_num_threads(1)
    assert entry(argv) == 2
    shown = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.strip()]
    lines = [line for line in shown if "%|" not in line and "step/s" not in line]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def some(root: Path, pattern: str) -> Path:
    return sorted(root.rglob(pattern))[0]


def test_missing_dataset_folder(tmp_path: Path, target_root: Path, capsys: Capture) -> None:
    argv = runs.arguments(tmp_path / "run", tmp_path / "nowhere", target_root)
    assert "nowhere" in error_of(train.main, argv, capsys)
    assert not (tmp_path / "run").exists()


def test_image_without_label(tmp_path: Path, roots: tuple[Path, Path], capsys: Capture) -> None:
    label = some(roots[1] / "gtFine", "*.png")
    label.unlink()
    message = error_of(train.main, runs.arguments(tmp_path / "run", *roots), capsys)
    assert label.name.removesuffix("_gtFine_labelIds.png") in message
    assert not (tmp_path / "run").exists()


def damage(path: Path, how: str) -> None:
    from PIL import Image

    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    else:
        Image.new("L", Image.open(path).size, 77).save(path)


@pytest.mark.parametrize("how, workers", [("truncated", 0), ("id 77", 0), ("id 77", 1)])
def test_damaged_label_and_then_mended(
    how: str, workers: int, tmp_path: Path, roots: tuple[Path, Path], source_root: Path, capsys: Capture
) -> None:
    """Found in the middle of training: what was saved is whole, and the run goes on once the file is mended."""
    label = some(roots[0] / "gtFine" / "train", "*.png")
    damage(label, how)
    more = ("--stages=source", f"--data.workers={workers}")
    message = error_of(train.main, runs.arguments(tmp_path / "run", *roots, *more), capsys)
    assert label.name in message and (how == "truncated" or "77" in message)
    assert not list((tmp_path / "run").rglob(".partial-*"))
    shutil.copyfile(source_root / label.relative_to(roots[0]), label)
    if not workers:
        assert train.main(runs.arguments(tmp_path / "run", *roots, *more, "--resume")) == 0


def test_loss_that_is_not_finite(tmp_path: Path, source_root: Path, target_root: Path, capsys: Capture) -> None:
    more = ("--stages=source", "--source.lr=1e30", "--source.checkpoint_every=1")
    message = error_of(train.main, runs.arguments(tmp_path / "run", source_root, target_root, *more), capsys)
    assert "at step 1" in message and "learning rate" in message
    weights = torch.load(tmp_path / "run" / "source" / "checkpoint.pt", weights_only=True)
    assert weights["state"]["step"] == 1
    assert not (tmp_path / "run" / "source" / "model").exists()


def test_output_folder_that_cannot_be_written(source_root: Path, target_root: Path, capsys: Capture) -> None:
    argv = runs.arguments(Path("/dev/null/run"), source_root, target_root)
    assert "/dev/null" in error_of(train.main, argv, capsys)


def test_output_folder_in_use(tmp_path: Path, source_root: Path, target_root: Path, capsys: Capture) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    message = error_of(train.main, runs.arguments(tmp_path, source_root, target_root), capsys)
    assert "--resume" in message and [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert "config.yaml" in error_of(train.main, runs.arguments(tmp_path, source_root, target_root, "--resume"), capsys)


def test_resume_with_other_settings(finished: Path, source_root: Path, target_root: Path, capsys: Capture) -> None:
    argv = runs.arguments(finished, source_root, target_root, "--resume", "--target.lr=0.5", steps=6)
    assert "target.lr: 0.001 -> 0.5" in error_of(train.main, argv, capsys)


@pytest.mark.parametrize("stage, named", [("estimator", "source model"), ("full", "source model")])
def test_stage_without_its_input(
    stage: str, named: str, tmp_path: Path, source_root: Path, target_root: Path, capsys: Capture
) -> None:
    argv = runs.arguments(tmp_path / "run", source_root, target_root, f"--stages={stage}")
    assert named in error_of(train.main, argv, capsys)
    assert not (tmp_path / "run").exists()


def test_tmt_without_estimator(
    finished: Path, tmp_path: Path, source_root: Path, target_root: Path, capsys: Capture
) -> None:
    more = ("--stages=tmt", f"--source_model={finished}/source/model")
    argv = runs.arguments(tmp_path / "run", source_root, target_root, *more)
    assert "--estimator_weights" in error_of(train.main, argv, capsys)
    assert not (tmp_path / "run").exists()


def test_sizes_that_do_not_fit(tmp_path: Path, source_root: Path, target_root: Path, capsys: Capture) -> None:
    argv = runs.arguments(tmp_path / "run", source_root, target_root, "--model.hidden=36")
    assert "36" in error_of(train.main, argv, capsys)
    assert not (tmp_path / "run").exists()


def other_architecture(finished: Path, folder: Path, kind: str) -> Path:
    """A model folder that is not what it should be."""
    shutil.copytree(finished / "source" / "model", folder)
    if kind == "bert":
        BertConfig().save_pretrained(folder)
    elif kind == "other sizes":
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**settings, "hidden_dim": 64}))
    else:
        weights = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    return folder


@pytest.mark.parametrize("kind", ["bert", "other sizes", "truncated"])
def test_model_of_another_architecture(
    kind: str, finished: Path, tmp_path: Path, source_root: Path, target_root: Path, capsys: Capture
) -> None:
    folder = other_architecture(finished, tmp_path / "model", kind)
    more = ("--stages=full", f"--source_model={folder}")
    argv = runs.arguments(tmp_path / "run", source_root, target_root, *more)
    assert str(folder) in error_of(train.main, argv, capsys)
    assert not (tmp_path / "run").exists()
    argv = [str(folder), "--dataset=cityscapes", f"--root={target_root}", f"--out={tmp_path / 'out'}"]
    assert str(folder) in error_of(evaluate.main, argv, capsys)
    assert not (tmp_path / "out").exists()


def test_estimator_of_another_architecture(
    finished: Path, tmp_path: Path, source_root: Path, target_root: Path, capsys: Capture
) -> None:
    weights = finished / "source" / "model" / "model.safetensors"
    more = ("--stages=tmt", f"--source_model={finished}/source/model", f"--estimator_weights={weights}")
    argv = runs.arguments(tmp_path / "run", source_root, target_root, *more)
    assert "estimator" in error_of(train.main, argv, capsys)


def break_one(path: Path, name: str) -> str:
    """Put a NaN into a tensor of a file whose name ends so; the tensor's name."""
    with safe_open(path, "pt") as file:
        weights, notes = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    (found, *_) = (key for key in weights if key.endswith(name))
    weights[found].view(-1)[-1] = float("nan")
    save_file(weights, path, metadata=notes)
    return found


@pytest.mark.parametrize("stage", ["estimator", "full", "tmt"])
def test_model_with_one_value_that_is_not_finite(
    stage: str, finished: Path, tmp_path: Path, source_root: Path, target_root: Path, capsys: Capture
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(finished / "source" / "model", folder)
    name = break_one(folder / "model.safetensors", "fc1.weight")
    given = (f"--source_model={folder}", f"--estimator_weights={finished}/estimator/estimator.safetensors")
    argv = runs.arguments(tmp_path / "run", source_root, target_root, f"--stages={stage}", *given)
    assert f"{folder}/model.safetensors: {name} must be finite, got 1 of" in error_of(train.main, argv, capsys)
    assert not (tmp_path / "run").exists()


def test_estimator_with_one_value_that_is_not_finite(
    finished: Path, tmp_path: Path, source_root: Path, target_root: Path, capsys: Capture
) -> None:
    weights = tmp_path / "estimator.safetensors"
    shutil.copyfile(finished / "estimator" / weights.name, weights)
    name = break_one(weights, "bias")
    given = ("--stages=tmt", f"--source_model={finished}/source/model", f"--estimator_weights={weights}")
    message = error_of(train.main, runs.arguments(tmp_path / "run", source_root, target_root, *given), capsys)
    assert f"{weights}: {name} must be finite, got 1 of" in message


def test_rate_that_is_too_large_for_masked_attention(
    finished: Path, tmp_path: Path, source_root: Path, target_root: Path, capsys: Capture
) -> None:
    """The operators refuse a transferability that is not a number before there is a loss."""
    more = ("--stages=tmt", f"--source_model={finished}/source/model", "--target.lr=1e20")
    given = f"--estimator_weights={finished}/estimator/estimator.safetensors"
    message = error_of(train.main, runs.arguments(tmp_path / "run", source_root, target_root, *more, given), capsys)
    assert "error: tmt: " in message and "at step 1" in message and "lower the learning rate" in message


@pytest.mark.parametrize("argument", ["--model.cell=0", "--model.mask_threshold=1.5", "--modl.cell=3", "--seed=x"])
def test_bad_settings_end_with_two(argument: str, tmp_path: Path, capsys: Capture) -> None:
    message = error_of(train.main, [f"--out={tmp_path / 'run'}", argument], capsys)
    assert argument.partition("=")[0].removeprefix("--") in message
    assert not (tmp_path / "run").exists()


def test_extension_not_built(tmp_path: Path, source_root: Path, target_root: Path) -> None:
    code = "import sys; sys.modules['tmt_ext._C'] = None; from tmt.train import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *runs.arguments(tmp_path / "run", source_root, target_root)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: tmt_ext: ") and result.stderr.count("\n") == 1
    assert "pip install" in result.stderr
    assert not (tmp_path / "run").exists()


def test_no_room_for_a_checkpoint(
    tmp_path: Path, source_root: Path, target_root: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint before stays, with nothing beside it, and the run goes on from there once there is room."""
    write, steps = checkpoint._write, []

    def write_little(content: dict, path: Path) -> None:
        steps.append(content["state"]["step"])
        with no_file_above(10_000 if steps[-1] == 2 else resource.RLIM_INFINITY):
            write(content, path)

    monkeypatch.setattr(checkpoint, "_write", write_little)
    more = ("--stages=source", "--source.checkpoint_every=1", "--source.eval_every=4")
    message = error_of(train.main, runs.arguments(tmp_path / "run", source_root, target_root, *more), capsys)
    assert message.startswith(f"error: source: {tmp_path}/run/source/checkpoint.pt: File too large; make room")
    assert "--resume" in message and not list((tmp_path / "run").rglob(".*"))
    monkeypatch.setattr(checkpoint, "_write", write)
    assert train.main(runs.arguments(tmp_path / "run", source_root, target_root, *more, "--resume")) == 0
    assert "source: resumed after step 1 of 4" in capsys.readouterr().out


def test_too_little_memory(tmp_path: Path, source_root: Path, target_root: Path, capsys: Capture) -> None:
    crop = "--augment.crop=[4000000,4000000]"
    argv = runs.arguments(tmp_path / "run", source_root, target_root, "--stages=source", crop)
    message = error_of(train.main, argv, capsys)
    assert message.startswith("error: source: out of memory (") and "source.batch_size (now 2)" in message
    assert "augment.crop (now 4000000 x 4000000)" in message and not (tmp_path / "run" / "source" / "model").exists()
