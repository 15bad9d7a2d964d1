"""Tiny trees of each dataset's layout, made once for all tests."""

import shutil

import pytest

from tmt.data.synthetic import make

SIZE = (32, 64)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Folders of small synthetic scenes by dataset: 6 training and 3 validation images."""
    base = tmp_path_factory.mktemp("made")
    return {name: make(name, base / name, 6, 3, SIZE, seed=1, progress=False) for name in ("cityscapes", "gtav")}


@pytest.fixture
def cityscapes(made, tmp_path):
    """A Cityscapes tree that the test may damage."""
    return shutil.copytree(made["cityscapes"], tmp_path / "cityscapes")


@pytest.fixture
def gtav(made, tmp_path):
    """A GTAV tree that the test may damage."""
    return shutil.copytree(made["gtav"], tmp_path / "gtav")
