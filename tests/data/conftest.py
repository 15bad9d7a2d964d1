"""Tiny trees of each dataset's layout, made once for all tests."""

import shutil

import pytest

from tmt.synthetic import DOMAINS, make

SIZE = (32, 64)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Folders of small synthetic scenes by dataset: 6 training and 3 validation images."""
    base = tmp_path_factory.mktemp("made")
    return {name: make(name, base / name, 6, 3, SIZE, seed=1, progress=False) for name in DOMAINS}


@pytest.fixture
def cityscapes(made, tmp_path):
    """A Cityscapes tree that the test may damage; so are the others."""
    return shutil.copytree(made["cityscapes"], tmp_path / "cityscapes")


@pytest.fixture
def gtav(made, tmp_path):
    return shutil.copytree(made["gtav"], tmp_path / "gtav")


@pytest.fixture
def bdd100k(made, tmp_path):
    return shutil.copytree(made["bdd100k"], tmp_path / "bdd100k")


@pytest.fixture
def mapillary(made, tmp_path):
    return shutil.copytree(made["mapillary"], tmp_path / "mapillary")


@pytest.fixture
def synthia(made, tmp_path):
    return shutil.copytree(made["synthia"], tmp_path / "synthia")
