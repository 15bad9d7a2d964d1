"""The CPU sources compile for ARM, at the portable level. Needs zig, whose compiler has every target (make kernels)."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
KERNELS = sorted((ROOT / "csrc").glob("*/cpu/*kernels.cpp"))
OTHERS = sorted(set((ROOT / "csrc").glob("*/cpu/*.cpp")) - set(KERNELS))
AARCH64 = 183  # e_machine of an ELF file

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None, reason="needs zig: pip install --group kernels"
)


@pytest.mark.parametrize("source", [*KERNELS, *OTHERS], ids=lambda path: path.stem)
def test_compiles_for_aarch64(source, tmp_path):
    product = tmp_path / "arm.o"
    command = [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-gnu", "-std=c++20", "-O2"]
    command += ["-Wall", "-Wextra", "-Werror", "-Wno-psabi", f"-I{ROOT / 'csrc'}"]
    command += ["-isystem", str(Path(torch.__file__).parent / "include")]
    command += ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY"]
    command += ["-DTMT_SIMD=portable", "-DTMT_SIMD_portable"] if source in KERNELS else []
    done = subprocess.run([*command, "-c", str(source), "-o", str(product)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int.from_bytes(product.read_bytes()[18:20], "little") == AARCH64
