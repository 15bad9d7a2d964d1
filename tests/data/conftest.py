"""Tiny trees of each dataset's layout, which a test may damage."""

import shutil

import pytest


@pytest.fixture
def cityscapes(made, tmp_path):
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
