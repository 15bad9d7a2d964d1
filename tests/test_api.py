"""Adapting and segmenting from Python: what the commands do, by calls."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tmt
from tests.helpers import runs
from tmt.cli import predict

SETTINGS = {
    **{f"model.{name}": value for name, value in runs.TINY_MODEL.items()},
    **{f"{stage}.{name}": value for stage in ("source", "target") for name, value in runs.TINY_FIT.items()},
    "model.backbone": "swin", "source.steps": 2, "estimator.steps": 2, "target.steps": 2, "augment.crop": (48, 96),
    "estimator.batch_size": 2, "device": "cpu", "pictures": 0, "stages": ("source", "estimator", "tmt"),
}  # fmt: skip


def domain(root: Path, shade: int) -> Path:
    """A dataset of two classes, bright above dark."""
    random = np.random.default_rng(shade)
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for number in range(3):
            label = np.repeat(np.array([0, 1], np.uint8), 24)[:, None].repeat(96, 1)
            image = random.integers(0, 40, (48, 96, 3)) + shade + 90 * label[..., None]
            Image.fromarray(image.astype(np.uint8)).save(root / f"images/{split}/{number}.png")
            Image.fromarray(label).save(root / f"labels/{split}/{number}.png")
    (root / "classes.csv").write_text("id,name,train_id\n0,ground,0\n1,sky,1\n")
    return root


def adapt_twice(folder: Path) -> None:
    """The second call finds everything finished."""
    runs.redirect(folder / "log")
    for _ in range(2):
        model = tmt.adapt(folder / "day", ("folders", folder / "night"), folder / "run", settings=SETTINGS)
        assert not model.training and not any(one.requires_grad for one in model.parameters())
    found = tmt.segment(model, folder / "night/images/val/0.png")
    np.savez(folder / "found.npz", prediction=found.prediction.numpy(), transferability=found.transferability.numpy())


def test_adapt_then_segment_as_the_commands_do(tmp_path: Path) -> None:
    domain(tmp_path / "day", 60), domain(tmp_path / "night", 10)
    assert runs.finish(runs.start(adapt_twice, tmp_path)) == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "log").read_text().count("finished before") == 3
    found = np.load(tmp_path / "found.npz")
    model, picture = tmp_path / "run/tmt/model", tmp_path / "night/images/val/0.png"
    assert predict.main([str(model), str(picture), f"--out={tmp_path / 'maps'}", "--device=cpu"]) == 0
    (labels,) = (tmp_path / "maps/labels").rglob("*.png")
    assert np.array_equal(np.asarray(Image.open(labels)), found["prediction"])
    assert found["transferability"].shape == (48, 96)
    opened = Image.open(picture)
    for image in (opened, np.asarray(opened)):
        assert np.array_equal(tmt.segment(str(model), image).prediction.numpy(), found["prediction"])


def test_mistakes_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(tmt.TMTError, match=r"target\.stepz"):
        tmt.adapt("a", "b", "run", settings={"target.stepz": 3})
    with pytest.raises(tmt.TMTError, match=r"a\b"):
        tmt.adapt("a", "b", "run")
    with pytest.raises(tmt.TMTError, match="stages must train a model, got estimator; add tmt"):
        tmt.adapt("a", "b", "run", settings={"stages": "estimator"})
    assert not (tmp_path / "run").exists()
    with pytest.raises(tmt.TMTError, match=r"RGB pixels \(H, W, 3\) uint8, got \(4, 4\) float64"):
        tmt.segment(_Never(), np.zeros((4, 4)))  # type: ignore[arg-type]


class _Never(tmt.TMTForSemanticSegmentation):
    """A model that is not asked."""

    def __init__(self):  # no parts
        pass
