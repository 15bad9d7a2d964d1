"""Machine code of the CUDA kernels without a GPU, and the tools of the CUDA toolkit that make and read it."""

import functools
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import torch

from .loops import Code, parsed

ROOT = Path(__file__).resolve().parent.parent
FLAGS = (
    *("-cubin", "-std=c++20", "-O3", "-lineinfo", "--expt-relaxed-constexpr"),
    *("-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY", "-DUSE_CUDA"),
)


def kernels(csrc: Path, architecture: int = 90) -> dict[tuple[str, str], Code]:
    """The machine code of every kernel instance, by name and template arguments."""
    emulated = emulation("emulated")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        cubins = list(pool.map(lambda unit: cubin(unit, architecture), emulated.kernel_units(csrc)))
    found = {}
    for path in cubins:
        found |= {name_and_instance(demangled(symbol)): code for symbol, code in disassembled(path).items()}
    return found


def emulation(name: str) -> ModuleType:
    """A module of tests/ops, where the emulation of CUDA is."""
    folder = str(ROOT / "tests" / "ops")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


def cubin(unit: Path, architecture: int) -> Path:
    """Machine code of one .cu file; made where it is not there."""
    emulated = emulation("emulated")
    csrc = emulated.sources_of(unit)
    command = [tool("nvcc"), *FLAGS, f"-arch=sm_{architecture}", f"-I{csrc}"]
    command += ["-isystem", str(Path(torch.__file__).parent / "include"), str(unit)]
    words = [word.replace(str(csrc), "csrc") for word in command]
    digest = emulated.digest(words, emulated.included(unit, [csrc]))
    return emulated.made(emulated.BUILT / f"{unit.stem}-{digest}.cubin", command)


def disassembled(path: Path) -> dict[str, Code]:
    """The machine code of every kernel of a cubin, by its symbol."""
    command = [tool("nvdisasm"), "--print-code", "--print-line-info-inline", str(path)]
    return parsed(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())


# ---- tools of the CUDA toolkit --------------------------------------------------------------------------------------


def tool(name: str) -> str:
    """Path of a tool of the CUDA toolkit: on PATH, or of the package nvidia-cuda-<name>."""
    package = importlib.util.find_spec("nvidia")
    folders = [Path(folder) / "cu13" / "bin" for folder in (package.submodule_search_locations if package else [])]
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, folders)))
    if found is None:
        raise SystemExit(f"bench: {name} must be on PATH, got no such tool; pip install 'nvidia-cuda-{name}'")
    return found


def dumped(library: Path, what: str) -> Iterator[tuple[int, str]]:
    """Lines of a dump of cuobjdump, each with its architecture."""
    architecture = 0
    with subprocess.Popen([tool("cuobjdump"), what, str(library)], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if match := re.match(r"arch = sm_(\d+)", line):
                architecture = int(match[1])
            yield architecture, line
    if process.returncode:
        raise SystemExit(f"bench: cuobjdump {what} {library} failed")


@functools.cache
def demangled(symbol: str) -> str:
    return subprocess.run(["c++filt", symbol], capture_output=True, text=True, check=True).stdout.strip()


def name_and_instance(signature: str) -> tuple[str, str]:
    """("attend", "BFloat16, 32") of "void tmt::attention::cuda::attend<c10::BFloat16, 32>(...)"."""
    plain = re.sub(r"\(anonymous namespace\)::|tmt::(?:\w+::)?cuda::|c10::|^void ", "", signature)
    plain = re.sub(r"\((?:int|bool|long|unsigned)\)", "", plain).split("(")[0]
    name, _, instance = plain.partition("<")
    return name, instance.strip().removesuffix(">").strip()
