"""Data and a finished run that tests of several folders share, and which files go first."""

from pathlib import Path

import pytest

from tests.helpers import runs, scenes

LONG = ("test_smoke.py", "test_docs.py", "test_package.py")
"""Files of few tests that take minutes: with them last, one of the processes that share the tests would wait."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first, all others in their order."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session")
def source_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.write(tmp_path_factory.mktemp("source") / "data", "source")


@pytest.fixture(scope="session")
def target_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.write(tmp_path_factory.mktemp("target") / "data", "target")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, source_root: Path, target_root: Path) -> Path:
    """The folder of a run of all stages that nothing interrupted."""
    folder = tmp_path_factory.mktemp("finished")
    argv = runs.arguments(folder / "run", source_root, target_root, steps=6)
    code = runs.finish(runs.start(runs.train, argv, folder / "log"))
    assert code == 0, (folder / "log").read_text()
    return folder / "run"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of small synthetic scenes by dataset: 6 training and 3 validation images of 32 x 64 pixels."""
    from tmt.synthetic import DOMAINS, make  # here: tests of the operators do without the package

    base = tmp_path_factory.mktemp("made")
    return {name: make(name, base / name, 6, 3, (32, 64), seed=1, progress=False) for name in DOMAINS}
