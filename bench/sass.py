"""Machine code without a GPU: compiles the CUDA kernels for one architecture and finds the loops that do their work.

A loop is what lies between a backward branch and its target; what belongs to it is what belongs to no loop within it.
"""

import bisect
import functools
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch

ROOT = Path(__file__).resolve().parent.parent
FLAGS = (
    *("-cubin", "-std=c++20", "-O3", "--expt-relaxed-constexpr"),
    *("-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY", "-DUSE_CUDA"),
)
WORK = ("HMMA", "FFMA")  # the first that a kernel has is what its loops are found by
MOST = 0.1  # of this work in all loops: those with less are not told
INTEGER = re.compile(
    r"U?(I(?!2F)[A-Z]+3?|LEA|LOP3|PLOP3|SHF|SEL|PRMT|POPC|FLO|VIADD\w*|VIMNMX\w*|R2P|P2R|MOV|R2UR|BREV|SGXT)"
)


class Instruction(NamedTuple):
    address: int
    name: str  # without modifiers
    target: int | None  # of a branch


@dataclass(frozen=True)
class Loop:
    """A loop of a kernel, by the addresses of its first and last instruction."""

    first: int
    last: int
    counts: Counter[str]  # instructions by name

    @property
    def instructions(self) -> int:
        return self.counts.total()

    @property
    def integer(self) -> int:
        """Instructions on integers, addresses and predicates."""
        return sum(n for name, n in self.counts.items() if INTEGER.fullmatch(name))


def kernels(csrc: Path, architecture: int = 90) -> dict[tuple[str, str], list[Instruction]]:
    """The machine code of every kernel instance, by name and template arguments."""
    emulated = emulation("emulated")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        cubins = list(pool.map(lambda unit: cubin(unit, architecture), emulated.kernel_units(csrc)))
    return {name_and_instance(demangled(symbol)): code for path in cubins for symbol, code in disassembled(path)}


def emulation(name: str) -> ModuleType:
    """A module of tests/ops, where the emulation of CUDA is."""
    folder = str(ROOT / "tests" / "ops")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


def cubin(unit: Path, architecture: int) -> Path:
    """Machine code of one .cu file; made where it is not there."""
    emulated, csrc = emulation("emulated"), unit.parents[1]
    command = [tool("nvcc"), *FLAGS, f"-arch=sm_{architecture}", f"-I{csrc}"]
    command += ["-isystem", str(Path(torch.__file__).parent / "include"), str(unit)]
    words = [word.replace(str(csrc), "csrc") for word in command]
    digest = emulated.digest(words, emulated.included(unit, [csrc]))
    return emulated.made(emulated.BUILT / f"{unit.stem}-{digest}.cubin", command)


def disassembled(path: Path) -> Iterator[tuple[str, list[Instruction]]]:
    code: list[Instruction] = []
    for _, line in dumped(path, "--dump-sass"):
        if match := re.match(r"\s+Function : (\w+)", line):
            code = []
            yield match[1], code
        elif match := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?([A-Z0-9]+)(.*?);", line):
            target = re.search(r"(?:^|\s)0x([0-9a-f]+)\s*$", match[3]) if match[2] == "BRA" else None
            code.append(Instruction(int(match[1], 16), match[2], int(target[1], 16) if target else None))


def loops(code: list[Instruction]) -> list[Loop]:
    """Every loop of a kernel, in the order of their first instructions."""
    spans = _spans(code)
    found = []
    for first, last in spans:
        inner = [span for span in spans if span != (first, last) and first <= span[0] and span[1] <= last]
        own = [i for i in _between(code, first, last) if not any(a <= i.address <= b for a, b in inner)]
        found.append(Loop(first, last, Counter(i.name for i in own)))
    return found


def _spans(code: list[Instruction]) -> list[tuple[int, int]]:
    """First and last address of each loop; of several branches to the same target the last counts."""
    ends: dict[int, int] = {}
    for i in code:
        if i.target is not None and i.target < i.address:
            ends[i.target] = max(i.address, ends.get(i.target, 0))
    return sorted(ends.items())


def _between(code: list[Instruction], first: int, last: int) -> list[Instruction]:
    def address(instruction: Instruction) -> int:
        return instruction.address

    return code[bisect.bisect_left(code, first, key=address) : bisect.bisect_right(code, last, key=address)]


def work_of(code: list[Instruction]) -> str | None:
    """What the kernel's work is counted by: HMMA, else FFMA, else nothing."""
    names = {i.name for i in code}
    return next((name for name in WORK if name in names), None)


def working_loops(code: list[Instruction]) -> list[Loop]:
    """The loops that hold the kernel's work, all code as one where no loop does."""
    work = work_of(code)
    every = loops(code)
    total = sum(loop.counts[work] for loop in every)
    if work is None or total == 0:
        return [Loop(code[0].address, code[-1].address, Counter(i.name for i in code))]
    return [loop for loop in every if loop.counts[work] >= MOST * total]


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
    """("attend", "BFloat16, 32") of "void tmt::cuda::(anonymous namespace)::attend<c10::BFloat16, 32>(...)"."""
    plain = re.sub(r"\(anonymous namespace\)::|tmt::cuda::|c10::|^void ", "", signature)
    plain = re.sub(r"\((?:int|bool|long|unsigned)\)", "", plain).split("(")[0]
    name, _, instance = plain.partition("<")
    return name, instance.strip().removesuffix(">").strip()
