"""Using the package from a program of one's own: the docstring's recipe, the public names, what importing costs."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

import tmt
from tests.data.trees import picture, put

LAZY = """
import sys
import tmt
assert tmt.__version__ and dir(tmt) and "torch" not in sys.modules and "numpy" not in sys.modules
for name in dir(tmt):
    getattr(tmt, name)
assert "torch" in sys.modules
"""


def recipe() -> str:
    """The indented code of the package's docstring."""
    assert tmt.__doc__
    lines = tmt.__doc__.splitlines()
    code = [line for line in lines if line.startswith("    ") or not line]
    return textwrap.dedent("\n".join(code))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with what the recipe opens: a dataset `mine` and a model `pretrained` of other classes."""
    from tmt.model import TMTConfig, TMTForSemanticSegmentation

    swin = {"model_type": "swin", "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
    sizes = dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim", "dim_feedforward"), 32)
    sizes |= {"encoder_feedforward_dim": 32, "encoder_layers": 1, "decoder_layers": 3, "num_attention_heads": 2}
    sizes |= {"num_queries": 8, "train_num_points": 64, "num_labels": 7}
    outputs = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
    TMTForSemanticSegmentation(TMTConfig(backbone_config=swin | outputs, **sizes)).save_pretrained(
        tmp_path / "pretrained"
    )
    put(tmp_path / "mine/classes.csv", "id,name,train_id\n0,void,\n1,ground,0\n2,sky,1\n")
    for split in ("train", "val"):
        for number in range(2):
            label = np.repeat(np.array([0, 1, 2], np.uint8), 20)[:, None].repeat(96, 1)
            put(tmp_path / f"mine/images/{split}/{number}.png", picture(number, (60, 96)))
            put(tmp_path / f"mine/labels/{split}/{number}.png", label)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_documented_recipe_runs(place):
    code = recipe()
    space: dict = {}
    exec(compile(code, "recipe", "exec"), space)
    assert (place / "finetuned/model.safetensors").is_file() and space["model"].config.id2label == {
        0: "ground",
        1: "sky",
    }
    assert space["prediction"].shape == (60, 96) and 0 <= space["accuracy"] <= 1
    assert space["labelled"].mean() == pytest.approx(2 / 3)


def test_importing_needs_no_torch_and_every_name_is_there():
    run = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_dir_shows_the_public_names_alone():
    import tmt.data
    import tmt.model

    assert dir(tmt) == sorted(tmt.__all__)
    assert {"open_dataset", "train_batches", "Augment", "normalise", "masks_from_labels"} < set(dir(tmt))
    with pytest.raises(AttributeError, match="module 'tmt' has no attribute 'nothing'"):
        tmt.nothing  # noqa: B018


def test_type_checkers_see_every_public_name():
    """The names of the TYPE_CHECKING block are those that __getattr__ serves."""
    import ast
    from pathlib import Path

    assert tmt.__file__
    (block,) = [node for node in ast.parse(Path(tmt.__file__).read_text("utf-8")).body if isinstance(node, ast.If)]
    names = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names == set(tmt.__all__)


def test_the_version_is_that_of_pyproject(monkeypatch, tmp_path):
    """Installed or not; a copy that nothing tells of says so."""
    import re
    from importlib import metadata
    from pathlib import Path

    from tmt.settings import version

    text = (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8")
    expected = re.findall(r'^version = "(.+)"$', text, re.MULTILINE)
    assert [tmt.__version__] == expected

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(version, "version", missing)
    assert [version.find_version()] == expected
    monkeypatch.setattr(version, "__file__", str(tmp_path / "a/b/c/d.py"))
    assert version.find_version() == "0+unknown"
