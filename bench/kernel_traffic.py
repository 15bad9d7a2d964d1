"""What each main CUDA kernel moves, by emulation and machine code: python -m bench.kernel_traffic [--before REVISION].

No GPU takes part, nothing is timed. The emulation (tests/cuda_emulation/counters.h) counts, warp by warp, wavefronts of
shared memory and what is asked of global memory; the loops that do the work are read from the machine code for sm_90.

    python -m bench.kernel_traffic                                      # this checkout
    python -m bench.kernel_traffic --before HEAD~5                      # a git revision beside it, with ratios
    python -m bench.kernel_traffic --before ../other/csrc               # the same of a folder
    python -m bench.kernel_traffic --only "attention bf16" --sites 12   # some calls; where the wavefronts are
    python -m bench.kernel_traffic --before REVISION --markdown bench/results/cuda-traffic.md

Operators are called by the names of their arguments, so that those of another revision may have others. An access is
counted as the source has it, the parts of a vector as one: the compiler may join, repeat or drop others.
"""

import argparse
import functools
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from tmt_ext import Fallback, Rule

from . import inputs, origin, sass
from .loops import Code, work_of, working_loops

SECTOR = 32  # bytes
CSRC = sass.ROOT / "csrc"


# ---- what is called -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A call of operators at a size that stands for larger ones: figures are divided by its units."""

    name: str
    unit: str
    units: int
    multiprocessors: int
    values: dict[str, object]  # arguments of the operators by name
    operators: tuple[str, ...]  # called in turn; a result is an argument of later ones

    def counts(self, csrc: Path, namespace: str) -> dict[str, list]:
        """Of each operator, what its kernels moved: counted.Counts."""
        counted, values = sass.emulation("counted"), dict(self.values)

        def call(operators: object, name: str) -> None:
            operator = getattr(operators, name).default
            arguments = [a.name for a in operator._schema.arguments if a.name in values]
            results = operator(**{a: values[a] for a in arguments})
            results = results if isinstance(results, tuple) else (results,)
            values.update(zip([r.name for r in operator._schema.returns], results, strict=True))

        return {
            name: counted.count(functools.partial(call, name=name), csrc, 90, self.multiprocessors, namespace)
            for name in self.operators
        }


def superpixel(dtype: torch.dtype, multiprocessors: int, what: str) -> Case:
    batch, channels, height, width, cell = 1, 256, 32, 64, 8
    values = {
        "features": torch.randn(batch, channels, height, width).to(dtype),
        **{"cell": cell, "iterations": 6, "kappa": 1 / 0.07},
        "grad_region_features": torch.randn(batch, channels, height // cell, width // cell).to(dtype),
        "grad_assignment": torch.randn(batch, 9, height, width).to(dtype),
    }
    operators = ("superpixel", "superpixel_backward")
    return Case(what, "pixel", batch * height * width, multiprocessors, values, operators)


def attention(dtype: torch.dtype, what: str) -> Case:
    batch, heads, queries, keys, dim = 1, 2, 100, 1024, 32
    logits, transferability = inputs.unstructured(batch, queries, keys)
    values = {
        **{name: torch.randn(batch, heads, queries, dim).to(dtype) for name in ("query", "grad_output")},
        **{name: torch.randn(batch, heads, keys, dim).to(dtype) for name in ("key", "value")},
        **{"mask_logits": logits.to(dtype), "transferability": transferability, "queries": queries},
        **{"transfer_threshold": torch.quantile(transferability, 0.7, dim=1), "mask_logit_threshold": 0.0},
        **{"rule": int(Rule.uncertain), "fallback": int(Fallback.all)},
        **{"mask_embeddings": torch.randn(batch, queries, 256).to(dtype)},
        **{"mask_features": torch.randn(batch, 256, keys).to(dtype)},
    }
    operators = ("pack_predicted_mask", "pack_mask", "packed_attention", "packed_attention_backward")
    return Case(what, "key and head", batch * heads * keys, 3, values, operators)


def deformable(dtype: torch.dtype, what: str) -> Case:
    value, shapes, locations = inputs.deformable(1, (64, 128))
    weights = torch.randn(locations.shape[:-1]).flatten(3).softmax(-1).view(locations.shape[:-1])
    values = {
        **{"value": value.to(dtype), "shapes": [side for shape in shapes for side in shape]},
        **{"locations": locations, "weights": weights, "deterministic": False},
        "grad_output": torch.randn(1, value.shape[1], inputs.HEADS * inputs.DIM).to(dtype),
    }
    operators = ("deformable_attention", "deformable_attention_backward")
    return Case(what, "query and head", value.shape[1] * inputs.HEADS, 3, values, operators)


def cases() -> Iterator[Case]:
    """The multiprocessors are so few that a block has as much to do as at the goals' sizes."""
    torch.manual_seed(0)
    yield superpixel(torch.bfloat16, 8, "superpixel bf16, an image on the chip")
    yield superpixel(torch.bfloat16, 2, "superpixel bf16, a launch per iteration")
    yield superpixel(torch.float32, 8, "superpixel float32")
    yield attention(torch.bfloat16, "attention bf16")
    yield attention(torch.float32, "attention float32")
    yield deformable(torch.bfloat16, "deformable attention bf16")
    yield deformable(torch.float32, "deformable attention float32")


# ---- figures --------------------------------------------------------------------------------------------------------

FIGURES: dict[str, Callable] = {
    "launches": lambda c: c.launches,
    "tensor-core products of a warp, 16 x 8 x 16": lambda c: c.total("accesses", "product"),
    "shared memory, wavefronts": lambda c: c.total("wavefronts", "shared"),
    "of loads": lambda c: c.total("wavefronts", "shared load"),
    "of stores": lambda c: c.total("wavefronts", "shared store"),
    "of matrix loads": lambda c: c.total("wavefronts", "shared matrix"),
    "of asynchronous copies": lambda c: c.total("wavefronts", "shared copy"),
    "without bank conflicts": lambda c: c.total("ideal", "shared"),
    "shared memory, bytes": lambda c: c.total("bytes", "shared"),
    "global memory, bytes read": lambda c: c.total("bytes", "global load"),
    "in sectors": lambda c: c.total("sectors", "global load") * SECTOR,
    "each sector once a launch": lambda c: c.sectors_read * SECTOR,
    "global memory, bytes written": lambda c: c.total("bytes", "global store"),
    "in sectors, written": lambda c: c.total("sectors", "global store") * SECTOR,
    "each sector once a launch, written": lambda c: c.sectors_written * SECTOR,
}


@dataclass(frozen=True)
class Revision:
    name: str
    csrc: Path
    code: dict[tuple[str, str], Code]

    @property
    def namespace(self) -> str:
        """Of its operators."""
        return "tmt_counted_before" if self.name == "before" else "tmt_counted"

    @property
    def main(self) -> set[str]:
        """Names of the main kernels."""
        (file,) = self.csrc.rglob("kernels.json")
        kernels = json.loads(file.read_text())
        return {name for name, kernel in kernels.items() if kernel["main"]}


def figures(counts: list, units: int) -> dict[str, float]:
    """The figures of some kernels together, divided by the units; launches are not."""
    sums = {name: sum(map(figure, counts)) for name, figure in FIGURES.items()}
    return {name: total if name == "launches" else total / units for name, total in sums.items()}


def figure_table(columns: dict[str, dict[str, float]]) -> Iterator[str]:
    """Rows of figures, a column for each revision that has the kernel, and the ratio of the last to the first."""
    first, last = list(columns.values())[0], list(columns.values())[-1]
    ratio = len(columns) > 1
    yield f"| | {' | '.join(columns)} |{' ratio |' if ratio else ''}"
    yield "|---" + "|--:" * (len(columns) + ratio) + "|"
    for name in FIGURES:
        cells = [f"{column[name]:.2f}" if name in column else "" for column in columns.values()]
        if ratio:
            cells.append(f"{last[name] / first[name]:.2f}" if first.get(name) and name in last else "")
        if any(column.get(name) for column in columns.values()):
            yield f"| {name} | {' | '.join(cells)} |"


LOOP_COUNTS = ("HMMA", "FFMA", "LDSM", "LDS", "STS", "LDG", "STG", "LDGSTS", "MUFU", "SHFL")


def loop_table(codes: dict[str, Code]) -> Iterator[str]:
    """The loops that do a kernel's work, of every revision that has the kernel."""
    work = next(iter(codes.values()))
    yield f"| loop | instructions | per {work_of(work)} | integer, address | out of line | {' | '.join(LOOP_COUNTS)} |"
    yield "|---" + "|--:" * (4 + len(LOOP_COUNTS)) + "|"
    for revision, code in codes.items():
        for loop in working_loops(code):
            done = loop.counts[work_of(code)]
            per = f"{loop.instructions / done:.1f}" if done else ""
            numbers = " | ".join(str(loop.counts[name]) for name in LOOP_COUNTS)
            where = f"{revision}: {loop.line}, {loop.first:#x} to {loop.last:#x}"
            yield f"| {where} | {loop.instructions} | {per} | {loop.integer} | {loop.aside.total()} | {numbers} |"


def site_lines(counts: list, units: int, most: int) -> Iterator[str]:
    """The sites with most wavefronts beyond those without conflicts."""
    every = [(sass.name_and_instance(c.kernel)[0], site) for c in counts for site in c.sites]
    every.sort(key=lambda pair: pair[1].ideal - pair[1].wavefronts)
    for kernel, site in every[:most]:
        if site.wavefronts > site.ideal:
            yield (
                f"- {kernel}, {site.traffic}, {(site.wavefronts - site.ideal) / units:.2f} wavefronts too many, "
                f"{site.wavefronts / site.ideal:.1f} times as many as without conflicts: {' < '.join(site.lines)}"
            )


# ---- the report -----------------------------------------------------------------------------------------------------


def section(case: Case, revisions: list[Revision], sites: int) -> Iterator[str]:
    """Of one case: each operator's kernels together, then each main kernel."""
    every = [case.counts(revision.csrc, revision.namespace) for revision in revisions]
    for operator in case.operators:
        counts = {r.name: counts[operator] for r, counts in zip(revisions, every, strict=True)}
        yield from ["", f"## {case.name}: {operator}, per {case.unit}"]
        kernels = sorted({sass.name_and_instance(c.kernel) for found in counts.values() for c in found})
        if len(kernels) > 1:
            together = {name: figures(found, case.units) for name, found in counts.items()}
            yield from ["", "All kernels:", "", *figure_table(together)]
        for kernel in kernels:
            if any(kernel[0] in revision.main for revision in revisions):
                yield from kernel_section(kernel, case, revisions, counts)
        for name, found in counts.items():
            if lines := list(site_lines(found, case.units, sites)):
                yield from ["", f"Bank conflicts, {name}:", "", *lines]


def kernel_section(kernel: tuple[str, str], case: Case, revisions: list[Revision], counts: dict) -> Iterator[str]:
    def has(count: object) -> bool:
        return sass.name_and_instance(count.kernel) == kernel

    own = {name: list(filter(has, found)) for name, found in counts.items()}
    columns = {name: figures(found, case.units) if found else {} for name, found in own.items()}
    yield from ["", f"### `{kernel[0]}<{kernel[1]}>`", "", *figure_table(columns)]
    codes = {r.name: r.code[kernel] for r in revisions if own[r.name] and kernel in r.code}
    if codes:
        yield from ["", *loop_table(codes)]


HEAD = """# What the main CUDA kernels move

By emulation and SASS; not measured on a GPU. Written by `{command}` at revision {revision}.

Wavefronts of shared memory are counted from the addresses that the lanes of each warp give, at 32 banks of 4 bytes;
"without bank conflicts": at most 128 bytes of an access at a time. Bytes of global memory are what lanes ask for; in
sectors: each sector of 32 bytes once in a warp's access, what the L1 cache is asked for; each sector once a launch:
what caches without limits would ask of memory. Loops are those of the machine code for sm_90 that hold at least a tenth
of the kernel's HMMA, or FFMA, by the line that closes them and their addresses, without the loops within them; integer:
instructions on integers, addresses and predicates.

{sizes}"""


def report(chosen: list[Case], revisions: list[Revision], sites: int) -> Iterator[str]:
    command = " ".join(["python -m bench.kernel_traffic", *sys.argv[1:]])
    sizes = "Superpixels (1, 256, 32, 64) cell 8, attention B 1, heads 2, N 100, S 1024, D 32, rule `uncertain`."
    yield from HEAD.format(command=command, revision=origin.origin()["revision"], sizes=sizes).split("\n")
    for case in chosen:
        yield from section(case, revisions, sites)


def source_of(revision: str, scratch: Path) -> Path:
    """A folder csrc: the one named, or that of a git revision, unpacked into `scratch`."""
    if Path(revision).is_dir():
        return Path(revision).resolve()
    packed = subprocess.run(["git", "archive", revision, "csrc"], cwd=sass.ROOT, capture_output=True, check=False)
    if packed.returncode:
        raise SystemExit(f"kernel_traffic: a revision must be git's or a folder csrc, got {revision}")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as files:
        files.extractall(scratch, filter="data")
    return scratch / "csrc"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.kernel_traffic", description=__doc__.splitlines()[0])
    parser.add_argument("--before", help="what to compare with: a git revision or a folder csrc")
    parser.add_argument("--csrc", default=str(CSRC), help="what is looked at, in the same way")
    parser.add_argument("--only", default="", help="part of a case's name: " + ", ".join(c.name for c in cases()))
    parser.add_argument("--sites", type=int, default=0, help="so many places with bank conflicts are told")
    parser.add_argument("--no-sass", action="store_true", help="without machine code, which nvcc makes")
    parser.add_argument("--markdown", type=Path, help="file to write the report to")
    return parser.parse_args()


def revisions_of(arguments: argparse.Namespace, scratch: Path) -> Iterator[Revision]:
    """What is compared: before, if asked for, and after."""
    named = {"before": arguments.before, "after": arguments.csrc} if arguments.before else {"present": arguments.csrc}
    for name, revision in named.items():
        csrc = source_of(revision, scratch / name)
        yield Revision(name, csrc, {} if arguments.no_sass else sass.kernels(csrc))


def main() -> int:
    arguments, lines = parse(), []
    chosen = [case for case in cases() if arguments.only in case.name]
    with tempfile.TemporaryDirectory() as scratch:
        for line in report(chosen, list(revisions_of(arguments, Path(scratch))), arguments.sites):
            print(line, flush=True)
            lines.append(line)
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
