"""What the compiler made of the CUDA kernels, without a GPU: python -m bench.build_report [--markdown FILE].

For every kernel and architecture of the built library: registers, local memory (spills), shared memory, occupancy, and
the instructions that matter, read from the machine code by cuobjdump (of the CUDA toolkit, or of the dependency group
`kernels`).
Threads and shared memory are those of the launches at the sizes below, which the emulated kernels' host code makes
without running them. Ends with 1 where a main kernel (csrc/kernels.json) touches local memory or an expected
instruction is missing.
"""

import argparse
import collections
import datetime
import functools
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

import tmt_ext

from .sass import ROOT, demangled, dumped, emulation, name_and_instance

KERNELS = json.loads((ROOT / "csrc" / "kernels.json").read_text())
LOCAL = ("LDL", "STL")
COUNTED = ("HMMA", "HGMMA", "LDSM", "LDGSTS", "UBLKCP", "FFMA", "MUFU", *LOCAL)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SUPERPIXEL_SIZES = ((1, 256, 128, 256, 8), (2, 128, 128, 128, 8), (4, 256, 64, 128, 4))  # B, C, H, W, cell
ATTENTION_SIZES = ((2, 8, 100, 2048, 32), (2, 8, 100, 8192, 32), (1, 8, 100, 32768, 32))  # B, heads, N, S, D
DEFORMABLE_SIZES = ((1, 8, 32, ((16, 32), (32, 64), (64, 128))),)  # B, heads, D, levels; every position is a query


@dataclass(frozen=True)
class Limits:
    """Of one multiprocessor: "Technical Specifications per Compute Capability" of the CUDA programming guide."""

    warps: int
    blocks: int
    shared_kib: int
    multiprocessors: int  # of the GPU that stands for the architecture
    registers: int = 65536


LIMITS = {
    80: Limits(64, 32, 164, 108),
    86: Limits(48, 16, 100, 82),
    89: Limits(48, 24, 100, 128),
    90: Limits(64, 32, 228, 132),
    120: Limits(48, 24, 100, 170),
}


@dataclass
class Built:
    """One kernel instance in the machine code of one architecture."""

    name: str  # without template arguments
    instance: str  # the template arguments
    architecture: int
    registers: int = 0
    stack: int = 0
    instructions: collections.Counter = field(default_factory=collections.Counter)

    @property
    def main(self) -> bool:
        return KERNELS[self.name]["main"]

    @property
    def local(self) -> int:
        return sum(self.instructions[name] for name in LOCAL)

    @property
    def expected(self) -> list[str]:
        half = any(dtype in self.instance for dtype in ("BFloat16", "Half"))
        return KERNELS[self.name].get("half_precision" if half else "float32", [])

    def problems(self) -> Iterator[str]:
        where = f"{self.name}<{self.instance}> on sm_{self.architecture}"
        if self.main and (self.stack or self.local):
            yield f"{where}: {self.stack} bytes of stack, {self.local} local loads and stores"
        for name in self.expected:
            if not any(self.instructions[choice] for choice in name.split("|")):
                yield f"{where}: no {name}"


def occupancy(built: Built, threads: int, shared_bytes: int) -> tuple[int, float]:
    """Blocks per multiprocessor, and the fraction of its warps that they fill."""
    limits = LIMITS[built.architecture]
    warps = -(-threads // 32)
    warp_registers = -(-built.registers * 32 // 256) * 256
    shared = -(-(shared_bytes + 1024) // 128) * 128  # 1 KiB is the system's
    blocks = min(
        limits.blocks,
        limits.warps // warps,
        limits.registers // warp_registers // warps,
        limits.shared_kib * 1024 // shared,
    )
    return blocks, blocks * warps / limits.warps


# ---- what is in the library -----------------------------------------------------------------------------------------


def read(library: Path) -> list[Built]:
    """Every kernel instance of the library."""
    kernels: dict[tuple[int, str], Built] = {}
    for architecture, line in dumped(library, "--dump-resource-usage"):
        if match := re.match(r" Function (\w+):", line):
            symbol = match[1]
        elif match := re.match(r"  REG:(\d+) STACK:(\d+)", line):
            name, instance = name_and_instance(demangled(symbol))
            kernels[architecture, symbol] = Built(name, instance, architecture, *map(int, match.groups()))
    for architecture, line in dumped(library, "--dump-sass"):
        if match := re.match(r"\s+Function : (\w+)", line):
            symbol = match[1]
        elif match := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z0-9]+)", line):
            kernels[architecture, symbol].instructions[match[1]] += 1
    return sorted(kernels.values(), key=lambda kernel: (kernel.name, kernel.instance, kernel.architecture))


# ---- what is launched -----------------------------------------------------------------------------------------------


def launches(architecture: int) -> dict[tuple[str, str], object]:
    """The launch with most shared memory of every kernel instance at the sizes above: emulated.Launch."""
    found: dict[tuple[str, str], object] = {}
    for call in calls():
        for launch in emulation("emulated").launches(call, architecture, LIMITS[architecture].multiprocessors):
            key = name_and_instance(launch.kernel)
            if key not in found or found[key].shared_bytes < launch.shared_bytes:
                found[key] = launch
    return found


def calls() -> Iterator[Callable[[], None]]:
    for dtype in DTYPES:
        yield from (functools.partial(call_superpixel, size, dtype) for size in SUPERPIXEL_SIZES)
        yield from (functools.partial(call_attention, size, dtype) for size in ATTENTION_SIZES)
        yield from (functools.partial(call_deformable, size, dtype) for size in DEFORMABLE_SIZES)


def call_superpixel(size: tuple[int, ...], dtype: torch.dtype) -> None:
    ops, (*shape, cell) = torch.ops.tmt_emulated, size
    x = torch.empty(shape, dtype=dtype)
    regions, assignment, _, history, masses = ops.superpixel(x, cell, 6, 1 / 0.07)
    ops.superpixel_backward(regions, assignment, x, history, masses, cell, 6, 1 / 0.07)


def call_attention(size: tuple[int, ...], dtype: torch.dtype) -> None:
    ops, (batch, heads, queries, keys, dim) = torch.ops.tmt_emulated, size
    q, k, v = (torch.empty(batch, heads, n, dim, dtype=dtype) for n in (queries, keys, keys))
    transferability, threshold = torch.zeros(batch, keys), torch.ones(batch)
    rule, fallback = tmt_ext.Rule.uncertain, tmt_ext.Fallback.all
    mask = torch.empty(batch, queries, keys, dtype=dtype)
    bits, _ = ops.pack_mask(mask, transferability, threshold, 0.0, rule, fallback, queries)
    embeddings, features = mask.new_empty(batch, queries, 256), mask.new_empty(batch, 256, keys)
    ops.pack_predicted_mask(embeddings, features, transferability, threshold, 0.0, rule, fallback)
    output, lse, plan = ops.packed_attention(q, k, v, bits)
    ops.packed_attention_backward(output, q, k, v, output, lse, plan, bits)


def call_deformable(size: tuple, dtype: torch.dtype) -> None:
    ops, (batch, heads, dim, levels) = torch.ops.tmt_emulated, size
    shapes = [side for level in levels for side in level]
    positions = sum(height * width for height, width in levels)
    value = torch.empty(batch, positions, heads, dim, dtype=dtype)
    locations = torch.zeros(batch, positions, heads, len(levels), 4, 2)
    weights = torch.zeros(locations.shape[:-1])
    output = ops.deformable_attention(value, shapes, locations, weights)
    for deterministic in (False, True):
        ops.deformable_attention_backward(output, value, shapes, locations, weights, deterministic)


# ---- the report -----------------------------------------------------------------------------------------------------


def table(kernels: list[Built]) -> Iterator[str]:
    """Markdown rows of the instances that are launched at the sizes above, float16 left out: it is as bfloat16."""
    yield "| kernel | instance | sm | threads | registers | local | shared KiB | blocks | occupancy | instructions |"
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|---|"
    launched = {architecture: launches(architecture) for architecture in {k.architecture for k in kernels}}
    for k in kernels:
        launch = launched[k.architecture].get((k.name, k.instance))
        if launch is None or "Half" in k.instance:
            continue
        blocks, fraction = occupancy(k, launch.threads, launch.shared_bytes)
        counts = ", ".join(f"{name} {k.instructions[name]}" for name in COUNTED if k.instructions[name])
        yield (
            f"| {k.name}{' *' if k.main else ''} | {k.instance} | {k.architecture} | {launch.threads} | {k.registers} "
            f"| {k.local} | {launch.shared_bytes / 1024:.1f} | {blocks} | {fraction:.0%} | {counts} |"
        )


def report(kernels: list[Built], problems: list[str]) -> list[str]:
    info = tmt_ext.build_info()
    made = {"date": datetime.date.today(), "revision": info["revision"], "nvcc": info["cuda_version"]}
    made["built for"] = " ".join(info["cuda_architectures"])
    main = [k for k in kernels if k.main]
    return [
        "# CUDA kernels as built",
        "",
        "Written by `python -m bench.build_report`; no GPU took part. "
        + ", ".join(f"{k} {v}" for k, v in made.items()),
        "",
        f"{len(kernels)} kernel instances over all dtypes, head dimensions and architectures; {len(main)} are of main "
        f"kernels (*), {sum(bool(k.stack or k.local) for k in main)} of which touch local memory. "
        f"Largest number of registers: {max(k.registers for k in kernels)}.",
        "",
        *(["Problems:", *(f"- {problem}" for problem in problems), ""] if problems else []),
        "Launches at B, C, H, W, cell "
        + "; ".join(map(str, SUPERPIXEL_SIZES))
        + " and B, heads, N, S, D "
        + "; ".join(map(str, ATTENTION_SIZES))
        + ", all dtypes; float16 is as bfloat16. blocks: on one multiprocessor. local: LDL and STL.",
        "",
        *table(kernels),
        "",
        "| kernel | bytes moved |",
        "|---|---|",
        *(f"| {name} | {kernel['moves']} |" for name, kernel in KERNELS.items()),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.build_report", description=__doc__.splitlines()[0])
    parser.add_argument("--library", type=Path, default=Path(tmt_ext.__file__).with_name("libtmt_cuda.so"))
    parser.add_argument("--markdown", type=Path, help="file to write the report to")
    arguments = parser.parse_args()
    if not arguments.library.exists():
        raise SystemExit(f"build_report: {arguments.library} does not exist; build with TMT_CUDA=1")
    kernels = read(arguments.library)
    if unknown := sorted({k.name for k in kernels} - KERNELS.keys()):
        raise SystemExit(f"build_report: every kernel must be in csrc/kernels.json, got {', '.join(unknown)}")
    problems = [problem for kernel in kernels for problem in kernel.problems()]
    lines = report(kernels, problems)
    print("\n".join(lines))
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(lines) + "\n")
    print(*problems, sep="\n", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
