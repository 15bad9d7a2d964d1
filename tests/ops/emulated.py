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
CSRC = ROOT / "csrc"
EMULATION = ROOT / "tests" / "cuda_emulation"
SELF_TEST = EMULATION / "self_test.cu"
BUILT = ROOT / "build" / "cuda_emulation"


@functools.cache
def load():
    """Builds where needed, loads, and returns the library; `set_order` takes it."""
    path = build(sorted((CSRC / "cuda").glob("*.cu")))
    global _schemas  # a Library object takes its definitions with it when it goes
    _schemas = torch.library.Library("tmt_emulated", "DEF")
    for name in operators():
        _schemas.define(str(getattr(torch.ops.tmt, name).default._schema).removeprefix("tmt::"))
    torch.ops.load_library(str(path))
    return ctypes.CDLL(str(path))


def operators():
    """Names of all operators of `tmt`."""
    names = torch._C._dispatch_get_all_op_names()
    return sorted(name.removeprefix("tmt::") for name in names if name.startswith("tmt::"))


def set_order(seed):
    """How threads and blocks take turns: 0 ascending, 1 descending, otherwise at random from this seed."""
    load().tmt_emulation_set_order(seed)


def set_architecture(number):
    """Which GPU is emulated: 80, 86, 89, 90 (at first) or 120; they differ in shared memory."""
    load().tmt_emulation_set_architecture(number)


def self_test():
    """Path of the library of kernels that test the emulation."""
    return build([SELF_TEST])


def build(units, csrc=CSRC, sanitize=False):
    """Path of the library made of these .cu files with the headers of `csrc`; built anew only after a change.

    sanitize: with AddressSanitizer and UBSan, to be loaded where their run-time libraries were preloaded.
    """
    compiler = os.environ.get("CXX", "g++")
    command = [compiler, *_flags(csrc), *(SANITIZERS if sanitize else ())]
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    digest = hashlib.sha256(version + torch.__version__.encode() + " ".join(map(str, [*command, *units])).encode())
    for source in [*units, *_headers(csrc), *sorted(EMULATION.rglob("*.*"))]:
        digest.update(source.read_bytes())
    path = BUILT / f"{units[0].stem if len(units) == 1 else 'all'}-{digest.hexdigest()[:16]}.so"
    if not path.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        _build(command, [*units, *sorted(EMULATION.glob("*.cpp"))], path)
    return path


# Fibers have stacks of their own, so that only what lies outside of them can be watched.
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "--param=asan-stack=0", "-g1")


def _headers(csrc):
    return sorted([*csrc.glob("*.h"), *(csrc / "cuda").glob("*.cuh")])


def _flags(csrc):
    return [
        *("-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE"),
        *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
        *(f"-I{EMULATION}", f"-I{csrc}", "-isystem", str(Path(torch.__file__).parent / "include")),
        *("-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY", "-DUSE_CUDA"),
        *("-DTMT_CUDA_LIBRARY=tmt_emulated", "-DTMT_CUDA_KEY=CPU"),
    ]


def _build(command, sources, path):
    torch_lib = Path(torch.__file__).parent / "lib"
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        objects = [Path(scratch) / f"{source.stem}.o" for source in sources]

        def compile_one(source, target):
            _run([*command, "-x", "c++", "-c", str(source), "-o", str(target)])

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compile_one, sources, objects))
        library = Path(scratch) / "library.so"
        link = ["-shared", "-Wl,-Bsymbolic", *map(str, objects), f"-L{torch_lib}", "-ltorch_cpu", "-lc10"]
        _run([*command, *link, "-o", str(library)])
        library.replace(path)


def _run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
