"""Compiles the CUDA kernels' own source for the CPU, with the stand-in of CUDA in tests/cuda_emulation, and loads it.

The kernels then are operators of the namespace `tmt_emulated`, with the schemas of `tmt`, on CPU tensors. With
TMT_SANITIZE=address,undefined they are watched by these sanitizers, whose run-time libraries must have been preloaded:
a kernel that reads or writes outside of any tensor, or shared memory that it did not ask for, ends the process.
"""

import ctypes
import fcntl
import functools
import hashlib
import os
import re
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
EMULATION = ROOT / "tests" / "cuda_emulation"
SELF_TEST = EMULATION / "self_test.cu"
BUILT = ROOT / "build" / "cuda_emulation"  # objects and libraries, named by a digest of all that they are made of


@functools.cache
def load(path=None):
    """Loads and returns the library of all kernels, or the one at `path`, and makes its operators known."""
    path = path or library(kernel_units())
    global _schemas  # a Library object takes its definitions with it when it goes
    _schemas = torch.library.Library("tmt_emulated", "DEF")
    for name in operators():
        _schemas.define(str(getattr(torch.ops.tmt, name).default._schema).removeprefix("tmt::"))
    torch.ops.load_library(str(path))
    return ctypes.CDLL(str(path))


def operators():
    """Names of all operators of `tmt`, which is imported by who uses them."""
    names = torch._C._dispatch_get_all_op_names()
    return sorted(name.removeprefix("tmt::") for name in names if name.startswith("tmt::"))


def set_order(seed):
    """How threads and blocks take turns: 0 ascending, 1 descending, otherwise at random from this seed."""
    load().tmt_emulation_set_order(seed)


def set_architecture(number):
    """Which GPU is emulated: 80, 86, 89, 90 (at first) or 120; they differ in shared memory."""
    load().tmt_emulation_set_architecture(number)


def set_multiprocessors(count=0):
    """How many the emulated GPU has; 0: three, as at first."""
    load().tmt_emulation_set_multiprocessors(count)


class Launch(NamedTuple):
    """Of a kernel, by its demangled name."""

    kernel: str
    blocks: int
    threads: int
    shared_bytes: int


def launches(call, architecture=90, multiprocessors=132):
    """What `call` would launch on that GPU: nothing runs, and the tensors that it makes hold nothing."""
    path = library(kernel_units())
    emulation = load()
    emulation.tmt_emulation_recorded.restype = ctypes.c_uint64
    set_architecture(architecture)
    set_multiprocessors(multiprocessors)
    emulation.tmt_emulation_only_record(1)
    call()
    names, found = symbols(path), []
    numbers = [ctypes.c_uint64() for _ in range(3)]
    while offset := emulation.tmt_emulation_recorded(ctypes.c_uint64(len(found)), *map(ctypes.byref, numbers)):
        found.append(Launch(names[offset], *(number.value for number in numbers)))
    emulation.tmt_emulation_only_record(0)
    set_multiprocessors()
    set_architecture(90)
    return found


def symbols(path):
    """{offset: demangled name} of a library's functions."""
    command = ["nm", "--defined-only", "--demangle", str(path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    words = [line.split(maxsplit=2) for line in lines]
    return {int(address, 16): name for address, _, name in words}


def kernel_units(csrc=CSRC):
    """The kernels' translation units."""
    return sorted(csrc.rglob("*.cu"))


def sources_of(unit):
    """The csrc that a file lies in; for the emulation's own, the project's."""
    return next((folder for folder in unit.parents if (folder / "library.cpp").is_file()), CSRC)


def library(units, sanitize=None, namespace="tmt_emulated", unit_flags=()):
    """Path of the library made of these .cu files, each with the headers of the csrc that it lies in.

    sanitize: names of sanitizers, see above; TMT_SANITIZE where None. namespace: of the operators. unit_flags: for the
    .cu files only.
    """
    sanitize = os.environ.get("TMT_SANITIZE", "") if sanitize is None else sanitize
    unit_flags = [*unit_flags, f"-DTMT_CUDA_LIBRARY={namespace}"]
    flags = [(source, unit_flags) for source in units] + [(source, []) for source in sorted(EMULATION.glob("*.cpp"))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda pair: _object(*pair, sanitize), flags))
    torch_lib = Path(torch.__file__).parent / "lib"
    command = [_compiler(), "-shared", "-Wl,-Bsymbolic", *_sanitizers(sanitize)]
    libraries = [f"-L{torch_lib}", "-ltorch_cpu", "-lc10"]
    name = units[0].stem if len(units) == 1 else "kernels"
    key = digest([*command, *(path.name for path in objects)], [])
    return made(BUILT / f"{name}-{key}.so", [*command, *map(str, objects), *libraries])


def _object(source, flags, sanitize):
    """Path of the object file made of one source; compiled anew only after a change of it or of what it includes."""
    csrc = sources_of(source)
    folders = [EMULATION, EMULATION / "common", csrc]
    command = [_compiler(), *FLAGS, *flags, *_sanitizers(sanitize), *(f"-I{folder}" for folder in folders)]
    command += ["-isystem", str(Path(torch.__file__).parent / "include"), "-x", "c++", "-c", str(source)]
    words = [word.replace(str(csrc), "csrc") for word in command]  # a copy elsewhere makes the same object
    return made(BUILT / f"{source.stem}-{digest(words, included(source, folders))}.o", command)


FLAGS = [
    *("-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
    *("-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY", "-DUSE_CUDA"),
    "-DTMT_CUDA_KEY=CPU",
]


def _sanitizers(names):
    """Flags; the fibers' stacks are not watched, for the sanitizer does not know them."""
    return [f"-fsanitize={names}", "-fno-sanitize-recover=all", "--param=asan-stack=0", "-g1"] if names else []


def _compiler():
    return os.environ.get("CXX", "g++")


@functools.cache
def _compiler_version(compiler):
    return subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout


def included(source, folders):
    """The file and all that it includes from `folders`, the folder of the including file first."""
    found, open_files = set(), [source]
    while open_files:
        file = open_files.pop()
        if file in found:
            continue
        found.add(file)
        for name in re.findall(r'^#include ["<](.+)[">]$', file.read_text(), re.MULTILINE):
            candidates = [folder / name for folder in (file.parent, *folders)]
            open_files += [path.resolve() for path in candidates if path.is_file()][:1]
    return sorted(found)


def digest(words, files):
    hashed = hashlib.sha256(_compiler_version(_compiler()) + torch.__version__.encode())
    hashed.update("\n".join(words).encode())
    for file in files:
        hashed.update(file.read_bytes())
    return hashed.hexdigest()[:16]


def made(path, command):
    """`path`, made by the command where it is not there; a process that finds another one making it waits for it."""
    if path.exists():
        return path
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / f"{path.name}.lock").open("w") as lock, tempfile.TemporaryDirectory(dir=BUILT) as scratch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            product = Path(scratch) / path.name
            done = subprocess.run([*command, "-o", str(product)], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
            product.replace(path)
    return path
