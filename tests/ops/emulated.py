"""Compiles the CUDA kernels' own source for the CPU, with the stand-in of CUDA in tests/cuda_emulation, and loads it.

The kernels then are operators of the namespace `tmt_emulated`, with the schemas of `tmt`, on CPU tensors.
"""

import ctypes
import functools
import hashlib
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
EMULATION = ROOT / "tests" / "cuda_emulation"
OPERATORS = ("superpixel", "superpixel_backward", "pack_mask", "packed_attention", "packed_attention_backward")
SOURCES = (
    "superpixel_forward",
    "superpixel_backward",
    "pack_mask",
    "masked_attention_forward",
    "masked_attention_backward",
)


@functools.cache
def load():
    """Builds where needed, loads, and returns the library; `set_order` takes it."""
    path = compiled(ROOT / "csrc")
    global _schemas  # a Library object takes its definitions with it when it goes
    _schemas = torch.library.Library("tmt_emulated", "DEF")
    for name in OPERATORS:
        _schemas.define(str(getattr(torch.ops.tmt, name).default._schema).removeprefix("tmt::"))
    torch.ops.load_library(str(path))
    return ctypes.CDLL(str(path))


def set_order(seed):
    """How threads and blocks take turns: 0 ascending, 1 descending, otherwise at random from this seed."""
    load().tmt_emulation_set_order(seed)


def compiled(csrc, folder=ROOT / "build" / "cuda_emulation"):
    """Path of the library built from the kernels in `csrc`; built anew only after a change."""
    compiler = os.environ.get("CXX", "g++")
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    digest = hashlib.sha256(version + torch.__version__.encode())
    for source in sorted([*csrc.glob("*.h"), *(csrc / "cuda").iterdir(), *EMULATION.iterdir()]):
        if source.is_file():
            digest.update(source.read_bytes())
    path = folder / f"libtmt_emulated-{digest.hexdigest()[:16]}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _build(compiler, csrc, path)
    return path


def _build(compiler, csrc, path):
    torch_root = Path(torch.__file__).parent
    flags = [
        *("-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE"),
        *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
        *(f"-I{EMULATION}", f"-I{csrc}", "-isystem", str(torch_root / "include")),
        *("-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY", "-DUSE_CUDA"),
        *("-DTMT_CUDA_LIBRARY=tmt_emulated", "-DTMT_CUDA_KEY=CPU"),
    ]
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        objects = [Path(scratch) / f"{name}.o" for name in (*SOURCES, "emulation")]
        inputs = [*(csrc / "cuda" / f"{name}.cu" for name in SOURCES), EMULATION / "emulation.cpp"]

        def compile_one(source, target):
            _run([compiler, *flags, "-x", "c++", "-c", str(source), "-o", str(target)])

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compile_one, inputs, objects))
        library = Path(scratch) / "library.so"
        torch_lib = torch_root / "lib"
        _run(
            [
                compiler,
                "-shared",
                "-Wl,-Bsymbolic",
                *map(str, objects),
                f"-L{torch_lib}",
                "-ltorch_cpu",
                "-lc10",
                "-o",
                str(library),
            ]
        )
        library.replace(path)


def _run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
