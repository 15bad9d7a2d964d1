"""The package as built and installed: what build_info says, what a missing extension says, what a wheel holds."""

import os
import re
import shutil
import subprocess
import sys
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


@pytest.mark.parametrize("isolation", [True, False], ids=["isolated", "no-isolation"])
def test_wheel_holds_extension_presets_and_tables(tmp_path, isolation):
    source = tmp_path / "source"
    products = shutil.ignore_patterns(".*", "build", "runs", "*.so", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=products)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    command += [] if isolation else ["--no-build-isolation"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TMT_CUDA": "0", "PATH": path})
    assert run.returncode == 0, run.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert any(re.match(r"tmt_ext/_C\..*\.so", name) for name in names)
    for file in [
        "tmt/train.py",
        "tmt/presets/demo.yaml",
        "tmt/studies/presets/table1.yaml",
        "tmt/data/tables/cityscapes.csv",
        "tmt/model/tmt.py",
    ]:
        assert file in names
    assert not any(name.startswith(("tests/", "bench/", "csrc/")) for name in names)


def test_cuda_demanded_without_nvcc_fails_loudly(tmp_path):
    cmake = shutil.which("cmake") or str(Path(sys.executable).parent / "cmake")
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
