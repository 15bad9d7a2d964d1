"""Dependencies point one way: a package imports only those above it in ORDER, and no two files import each other."""

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "python" / "tmt"
ORDER = (
    "errors", "settings", "runtime", "data", "synthetic", "visualize", "model", "methods", "inference", "training",
    "studies", "report", "labelling", "api", "cli",
)  # fmt: skip
DOORS = (
    "tmt",
    "tmt.__main__",
    "tmt.train",
    "tmt.evaluate",
    "tmt.predict",
    "tmt.explain",
    "tmt.label",
    "tmt.export",
    "tmt.experiments",
    "tmt.data.__main__",
    "tmt.report.__main__",
)
"""What `python -m` runs: a few lines that call into tmt.cli."""


@cache
def files() -> dict[str, Path]:
    """Every module of the package by its name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ["tmt", *path.relative_to(PACKAGE).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(module: str) -> set[str]:
    """The package's modules that a module imports anywhere in its text, within functions and for types too."""
    path = files()[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            found |= {f"{origin}.{name.name}" if f"{origin}.{name.name}" in files() else origin for name in node.names}
    return found & files().keys()


def floor(module: str) -> int:
    """The place of a module's package in ORDER; raises ValueError for one that has none."""
    return ORDER.index(module.split(".")[1])


def inner_modules() -> list[str]:
    return [module for module in files() if module not in DOORS]


def test_every_package_has_its_place() -> None:
    packages = {module.split(".")[1] for module in inner_modules()}
    assert packages == set(ORDER)


def test_no_import_points_upward() -> None:
    upward = [
        f"{module} -> {other}"
        for module in inner_modules()
        for other in imports(module)
        if other not in DOORS and floor(other) > floor(module)
    ]
    assert not upward


def test_only_python_m_uses_the_doors() -> None:
    assert not [f"{module} -> {other}" for module in inner_modules() for other in imports(module) if other in DOORS[1:]]


def test_no_files_import_each_other() -> None:
    """Kahn: take away, again and again, files that import nothing that is left; a circle stays."""
    left = {module: imports(module) - {module} for module in files()}
    while free := [module for module, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    assert not left


def test_it_sees_a_circle_and_an_upward_import(tmp_path: Path, monkeypatch) -> None:
    """The test can fail: two files planted in a copy of the package's outline."""
    (tmp_path / "runtime").mkdir()
    (tmp_path / "training").mkdir()
    (tmp_path / "runtime" / "low.py").write_text("def late():\n    from tmt.training import high\n")
    (tmp_path / "training" / "high.py").write_text("from ..runtime.low import late\n")
    found = {"tmt.runtime.low": tmp_path / "runtime" / "low.py", "tmt.training.high": tmp_path / "training" / "high.py"}
    monkeypatch.setitem(globals(), "files", lambda: found)
    imports.cache_clear()
    try:
        assert imports("tmt.runtime.low") == {"tmt.training.high"} and imports("tmt.training.high") == {
            "tmt.runtime.low"
        }
        assert floor("tmt.training.high") > floor("tmt.runtime.low")
    finally:
        imports.cache_clear()
