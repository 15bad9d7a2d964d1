"""What is published: the limited API, metadata, CITATION.cff, the hosted workflows and cibuildwheel's settings.

`make wheel` builds and tries the wheel itself.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import tmt_ext

ROOT = Path(__file__).resolve().parent.parent
MODULE = Path(tmt_ext.__file__).parent / "_C.abi3.so"
LIMITED = {
    "PyErr_SetString",
    "PyExc_RuntimeError",
    "PyModuleDef_Init",
    "PyUnicode_FromString",
    "PyUnicode_Split",
    "Py_BuildValue",
    "_Py_Dealloc",
}
"""What the module uses of Python; all of it in the limited API of 3.10 (Doc/data/stable_abi.dat of CPython)."""
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


@pytest.fixture(scope="module")
def project() -> dict:
    """pyproject.toml; Python 3.10 cannot read it."""
    return read_toml(ROOT / "pyproject.toml")


def read_toml(path: Path) -> dict:
    return pytest.importorskip("tomllib").loads(path.read_text(encoding="utf-8"))


def symbols(*options: str) -> set[str]:
    """The dynamic symbols of the module that is installed, without their versions."""
    if shutil.which("nm") is None:
        pytest.skip("needs nm")
    run = subprocess.run(["nm", "-D", *options, MODULE], capture_output=True, text=True, check=True)
    return {line.split()[-1].partition("@")[0] for line in run.stdout.splitlines()}


# ---- one build for every Python -------------------------------------------------------------------------------------


def test_module_uses_the_limited_api_alone() -> None:
    assert {name for name in symbols("--undefined-only") if re.match(r"_?Py[A-Z_]", name)} == LIMITED
    assert "PyInit__C" in symbols("--defined-only")


def test_no_module_of_one_python_lies_beside_it() -> None:
    """Python would prefer `_C.cpython-311-x86_64-linux-gnu.so`, of an earlier build, to `_C.abi3.so`."""
    assert [path.name for path in MODULE.parent.glob("_C.*")] == ["_C.abi3.so"]


def other_pythons() -> list[str]:
    """Those on PATH of another version than this one that start; the module promises 3.10 and later."""
    found = []
    for minor in range(10, 20):
        path = shutil.which(f"python3.{minor}")
        if path and minor != sys.version_info.minor and starts(path):
            found.append(path)
    return found


def starts(python: str) -> bool:
    """Whether it is more than the stand-in of a version manager."""
    return subprocess.run([python, "-c", ""], capture_output=True).returncode == 0


LOAD = """
import ctypes, sys
from pathlib import Path
libraries = Path(sys.argv[2])
for path in [*sorted(libraries.glob("../../torch.libs/*.so*")), libraries / "libc10.so", libraries / "libtorch_cpu.so"]:
    ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
sys.path.insert(0, sys.argv[1])
import _C
print(_C.build_info()["version"])
"""


def test_other_pythons_load_the_same_file() -> None:
    """They need no torch of their own: the libraries that the module binds to know no Python."""
    pythons = other_pythons()
    if not pythons or torch.version.cuda:
        pytest.skip("needs another Python on PATH, and a torch without CUDA")
    for python in pythons:
        command = [python, "-c", LOAD, str(MODULE.parent), str(Path(torch.__file__).parent / "lib")]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.stdout.strip() == tmt_ext.build_info()["version"], f"{python}: {run.stderr}"


# ---- metadata -------------------------------------------------------------------------------------------------------


def test_every_python_of_the_classifiers_is_allowed(project: dict) -> None:
    named = [one.rpartition(" ")[2] for one in project["project"]["classifiers"] if "Python :: 3." in one]
    assert project["project"]["requires-python"] == f">={named[0]}" and len(named) >= 4
    assert project["project"]["license"] == "Apache-2.0" and (ROOT / project["project"]["license-files"][0]).is_file()
    # Beside a license expression, indexes refuse them.
    assert not [one for one in project["project"]["classifiers"] if one.startswith("License ::")]


def test_build_and_run_ask_for_the_same_oldest_torch(project: dict) -> None:
    (build,) = [one for one in project["build-system"]["requires"] if one.startswith("torch")]
    assert build.startswith("torch>=2.10,") and "torch>=2.10" in project["project"]["dependencies"]
    assert "TORCH_TARGET_VERSION=0x020a000000000000" in (ROOT / "CMakeLists.txt").read_text()


def test_citation_is_valid_and_agrees(project: dict) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == project["project"]["version"] and citation["license"] == project["project"]["license"]
    assert citation["keywords"] == project["project"]["keywords"]
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors"} <= set(paper) and len(paper["authors"]) == 8
    assert all(set(author) == {"family-names", "given-names"} for author in paper["authors"])
    assert paper["title"] in re.sub(r"\s+", " ", (ROOT / "README.md").read_text(encoding="utf-8"))


# ---- how it is built elsewhere --------------------------------------------------------------------------------------


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def steps(workflow: Path) -> list[str]:
    """What the jobs of a workflow run, a value of the matrix for every expression."""
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    return [line for job in jobs for step in job["steps"] if "run" in step for line in expand(step["run"], job)]


def expand(line: str, job: dict) -> list[str]:
    found = re.search(r"\$\{\{ matrix\.(\w+) \}\}", line)
    return [line.replace(found[0], value) for value in job["strategy"]["matrix"][found[1]]] if found else [line]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_targets_of_the_makefile(workflow: Path) -> None:
    lines = steps(workflow)
    assert lines and not [line for line in lines if line.split()[0] != "make" or line.split()[1] not in targets()]


def test_there_are_three_workflows_and_their_targets_are_explained() -> None:
    assert [path.stem for path in WORKFLOWS] == ["docs", "tests", "wheels"]
    help_text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    used = {line.split()[1] for workflow in WORKFLOWS for line in steps(workflow)}
    assert not [one for one in used - {"wheels-cuda"} if f"make {one}" not in help_text]


@pytest.mark.parametrize("name", ["pyproject.toml", ".ci/cibuildwheel-cuda.toml"])
def test_cibuildwheel_builds_for_the_oldest_python_and_tries_the_wheel(name: str) -> None:
    settings = read_toml(ROOT / name)["tool"]["cibuildwheel"]
    assert settings["build"][0] == "cp310-*" and "*-musllinux_*" in settings["skip"]
    script = re.fullmatch(r"python \{project\}/(\S+)", settings["test-command"])
    assert script and (ROOT / script[1]).is_file()
    assert "--exclude 'libtorch*' --exclude 'libc10*'" in settings["linux"]["repair-wheel-command"]


def test_every_system_builds_without_cuda(project: dict) -> None:
    """The settings of a system replace those above them."""
    settings = project["tool"]["cibuildwheel"]
    found = [settings[one].get("environment", settings["environment"]) for one in ("linux", "macos", "windows")]
    assert [one["TMT_CUDA"] for one in found] == ["0", "0", "0"]


def test_docker_context_holds_what_the_build_needs() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines and all((ROOT / name).exists() for name in kept)
    needed = {"CMakeLists.txt", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py", "constraints.txt"}
    assert needed | {"cmake", "csrc", "python", "tmt_ext"} <= kept
