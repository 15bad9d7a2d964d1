"""Counts what the CUDA kernels move, with the emulation: no GPU takes part, and no cache is modelled.

The kernels are compiled once more with hooks at every access to memory (tests/cuda_emulation/counters.h), for operators
in a namespace of their own, so that several revisions of csrc can be counted in one process.
"""

import ctypes
import functools
import re
import subprocess
from dataclasses import dataclass
from typing import NamedTuple

import emulated
import torch

TRAFFIC = ("shared load", "shared store", "shared matrix", "shared copy", "global load", "global store", "product")
FLAGS = ("-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0", "-fno-tree-sra", "-g")


class Site(NamedTuple):
    """A place in the source, and all that the warps did there."""

    traffic: str  # one of TRAFFIC
    lines: tuple[str, ...]  # file:line, what is inlined first
    accesses: int  # of warps; of a product, how many
    wavefronts: int  # of shared memory
    ideal: int  # wavefronts, were no two words of an access in the same bank
    bytes: int  # that lanes asked for
    sectors: int  # of 32 bytes of global memory, each once in an access


@dataclass(frozen=True)
class Counts:
    """Of all launches of one kernel, by its demangled name."""

    kernel: str
    launches: int
    sectors_read: int  # each sector of 32 bytes once in a launch: what perfect caches would read
    sectors_written: int
    sites: tuple[Site, ...]

    def total(self, field, *traffic):
        """The sum of a field of the sites, of the kinds of traffic that begin with one of these words."""
        return sum(getattr(site, field) for site in self.sites if site.traffic.startswith(traffic))


class _SiteRow(ctypes.Structure):
    names = ("kernel", "site", "traffic", "accesses", "wavefronts", "ideal", "bytes", "sectors")
    _fields_ = [(name, ctypes.c_uint64) for name in names]


class _KernelRow(ctypes.Structure):
    names = ("kernel", "launches", "sectors_read", "sectors_written")
    _fields_ = [(name, ctypes.c_uint64) for name in names]


def count(call, csrc=emulated.CSRC, architecture=90, multiprocessors=3, namespace="tmt_counted"):
    """What the kernels of `csrc` move while call(operators) runs.

    operators: theirs, as in torch.ops, under the name `namespace`, of which each csrc in a process needs its own.
    """
    path = _load(csrc, namespace)
    library = ctypes.CDLL(str(path))
    library.tmt_emulation_set_architecture(architecture)
    library.tmt_emulation_set_multiprocessors(multiprocessors)
    return count_in(path, lambda: call(getattr(torch.ops, namespace)))


def count_in(path, call):
    """The same of a library at `path`, made with FLAGS."""
    library = ctypes.CDLL(str(path))
    library.tmt_emulation_count(1)
    call()
    library.tmt_emulation_count(0)
    sites = {}
    rows = _rows(library.tmt_emulation_counted_sites, _SiteRow)
    lines = _source_lines(path, [row.site for row in rows])
    for row in rows:
        site = Site(TRAFFIC[row.traffic], lines[row.site], *(getattr(row, name) for name in _SiteRow.names[3:]))
        sites.setdefault(row.kernel, []).append(site)
    names = emulated.symbols(path)
    return [
        Counts(names[k.kernel], k.launches, k.sectors_read, k.sectors_written, tuple(sites.get(k.kernel, ())))
        for k in _rows(library.tmt_emulation_counted_kernels, _KernelRow)
    ]


def _rows(function, kind):
    function.restype = ctypes.c_uint64
    rows = (kind * function(None))()
    function(rows)
    return list(rows)


@functools.cache
def _load(csrc, namespace):
    """Path of the library of a csrc; its operators are made known."""
    path = emulated.library(emulated.kernel_units(csrc), "", namespace, FLAGS)
    definitions = torch.library.Library(namespace, "DEF")
    for schema in schemas(csrc):
        definitions.define(schema)
    _definitions.append(definitions)
    torch.ops.load_library(str(path))
    return path


_definitions = []  # a Library object takes its definitions with it when it goes


def schemas(csrc):
    """Of every operator, from csrc/library.cpp."""
    calls = re.findall(r'm\.def\(\s*((?:"[^"]*"\s*)+)\)', (csrc / "library.cpp").read_text())
    return ["".join(re.findall(r'"([^"]*)"', call)) for call in calls]


def _source_lines(path, sites):
    """{site: (file:line, ...)}, from the function that was inlined most deeply outwards; only files of kernels."""
    if not sites:
        return {}
    command = ["addr2line", "--inlines", "--addresses", "-e", str(path)]
    addresses = "\n".join(hex(site - 1) for site in sorted(set(sites)))  # within the call that ends at the site
    out = subprocess.run(command, input=addresses, capture_output=True, text=True, check=True).stdout
    found = {}
    for line in out.splitlines():
        if line.startswith("0x"):
            lines = found.setdefault(int(line, 16) + 1, [])
        elif re.search(r"\.cuh?:\d", line) and "/cuda_emulation/common/" not in line:
            lines.append(line.split("/")[-1].split(" ")[0])
    return {site: tuple(lines) for site, lines in found.items()}
