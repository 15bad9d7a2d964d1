"""The package as built and installed: what build_info says, what a missing extension says, what a wheel holds."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

import tmt_ext

ROOT = Path(__file__).resolve().parent.parent


def test_build_info_says_what_was_built():
    info = tmt_ext.build_info()
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE).group(1)
    assert info["version"] == version
    assert re.match(r"(g\+\+|clang) \d+", info["compiler"])
    assert info["simd_levels"][0] == "portable" and info["simd_active"] in info["simd_levels"]
    assert bool(info["cuda_version"]) == bool(info["cuda_architectures"])


def test_cuda_library_is_loaded_only_where_torch_has_cuda():
    info = tmt_ext.build_info()
    assert info["cuda_loaded"] == bool(torch.version.cuda and info["cuda_version"])


def test_missing_extension_says_how_to_build_it(tmp_path):
    shutil.copytree(ROOT / "tmt_ext", tmp_path / "tmt_ext", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    # An editable installation would find the extension after all.
    code = "import sys; sys.meta_path = [f for f in sys.meta_path if '__editable__' not in repr(f)]; import tmt_ext"
    run = _python(code, tmp_path)
    assert run.returncode == 1
    assert "tmt_ext: the compiled extension cannot be loaded" in run.stderr and "pip install ." in run.stderr


def test_unknown_simd_level_is_refused():
    run = _python("import torch, tmt_ext; tmt_ext.build_info()", ROOT, TMT_SIMD="sse9")
    assert run.returncode == 1
    assert "TMT_SIMD: must be portable, avx2 or avx512" in run.stderr and "sse9" in run.stderr


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The source distribution of this tree, in a folder of its own."""
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", folder, "sdist", "--dist-dir", folder]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (archive,) = folder.glob("*.tar.gz")
    return archive


LEFT_OUT = (
    ".ci/",
    ".clang-format",
    ".dockerignore",
    ".github/",
    ".gitignore",
    ".pre-commit-config.yaml",
    "CONTRIBUTING.md",
    "Dockerfile",
    "Makefile",
    "bench/",
    "constraints.txt",
    "docs/",
    "examples/",
    "mkdocs.yml",
    "results/",
    "tests/",
)
"""What a source distribution leaves to the checkout: tests, benchmarks, documentation, and what drives them."""


def test_sdist_holds_all_that_git_tracks_but_what_is_left_out(sdist):
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    run = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        pytest.skip("not a git checkout")
    tracked = set(filter(None, run.stdout.split("\0")))
    missing = {name for name in tracked - names if not name.startswith(LEFT_OUT)}
    assert len(tracked & names) > 200 and not missing
    assert not [name for name in names if name.startswith(LEFT_OUT) or name.endswith(".so")]
    assert not [part for part in LEFT_OUT if not any(name.startswith(part) for name in tracked)]


def test_the_sdist_becomes_a_wheel_that_works_alone(sdist, tmp_path):
    """Without build isolation; `make wheel` does it in isolation."""
    wheel = _wheel(sdist, tmp_path)
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name.endswith(f"-cp310-abi3-{platform}.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    _check_content(names)
    _check_needs_no_path(tmp_path / "installed/tmt_ext")
    code = "import tmt_ext; from tmt import TMTConfig; print(TMTConfig().model_type, tmt_ext.build_info()['version'])"
    run = _python(code, tmp_path / "installed")
    assert run.returncode == 0 and run.stdout.startswith("tmt 0."), run.stderr


def _wheel(sdist, folder):
    """The wheel that pip builds from a source distribution."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(sdist)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "TMT_CUDA": "0", "PATH": path}
    run = subprocess.run([*command, "--no-build-isolation"], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def _check_content(names):
    assert [name for name in names if name.startswith("tmt_ext/_C.")] == ["tmt_ext/_C.abi3.so"]
    assert any(re.fullmatch(r"[^/]+\.dist-info/licenses/LICENSE", name) for name in names)
    tracked = [path.relative_to(ROOT / "python") for path in (ROOT / "python").rglob("*") if path.is_file()]
    tracked += [path.relative_to(ROOT) for path in (ROOT / "tmt_ext").iterdir() if path.suffix in (".py", ".typed")]
    wanted = {path.as_posix() for path in tracked if "__pycache__" not in path.parts}
    assert {"tmt/py.typed", "tmt/presets/demo.yaml", "tmt/data/tables/gtav.csv"} <= wanted <= set(names)
    assert not [name for name in names if not re.match(r"(tmt|tmt_ext|transferable_mask_transformer-[^/]+)/", name)]


def _check_needs_no_path(folder):
    """No library names a folder of the machine that built it, neither to load from nor in its messages."""
    libraries = sorted(folder.glob("*.so"))
    assert libraries
    for library in libraries:
        run = subprocess.run(["readelf", "--dynamic", "--wide", library], capture_output=True, text=True, check=True)
        assert "(NEEDED)" in run.stdout and not re.search(r"\((RPATH|RUNPATH)\)", run.stdout), library
    (module,) = folder.glob("_C*.so")
    paths = re.findall(rb"/[\w./+-]+/(?:csrc|include/torch)/[\w./-]+", module.read_bytes())
    assert not paths, paths


def test_libraries_of_this_build_name_no_path():
    """`_C`, and libtmt_cuda where it was built, of whatever kind of installation the tests run on."""
    _check_needs_no_path(Path(tmt_ext.__file__).parent)


def test_cuda_demanded_without_nvcc_fails_loudly(tmp_path):
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert cmake
    command = [cmake, "-S", str(ROOT), "-B", str(tmp_path), "-DTMT_CUDA=1", "-DCMAKE_CUDA_COMPILER=", "-G", "Ninja"]
    ninja = shutil.which("ninja") or str(Path(sys.executable).parent / "ninja")
    run = subprocess.run([*command, f"-DCMAKE_MAKE_PROGRAM={ninja}"], capture_output=True, text=True)
    assert run.returncode != 0 and "TMT_CUDA=1 asks for CUDA kernels, but no nvcc was found" in run.stderr


def _python(code, folder, **environment):
    """Runs code in a new process that imports from `folder` alone."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
        capture_output=True,
        text=True,
    )
