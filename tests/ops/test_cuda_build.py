"""The CUDA library as built: for which GPUs, and that every kernel of csrc/cuda is in it. Needs no GPU."""

import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tmt_ext

ROOT = Path(__file__).resolve().parents[2]
KERNELS = [
    "assign_cell",
    "divide_sums",
    "cell_gradient",
    "region_gradient",
    "pack_rows",
    "attend_split",
    "merge_splits",
]
KERNELS += ["attend_backward"]
MACHINE_CODE = 2  # kinds of the entries of a fat binary: 1 is PTX
FAT_BINARY = struct.pack("<I", 0xBA55ED50)
CONTAINER = struct.Struct("<IHHQ")  # magic, version, header size, size of the entries
ENTRY = struct.Struct("<HHIQIIHHI")  # kind, flags, header size, size, 4 we skip, architecture

needs_cuda_build = pytest.mark.skipif(not tmt_ext.build_info()["cuda_version"], reason="this build has no CUDA kernels")


def library():
    (path,) = Path(tmt_ext.__file__).parent.glob("libtmt_cuda.so")
    return path


def machine_code(data):
    """Architectures (80, ...) for which a file's fat binaries hold machine code: one set per translation unit."""
    units = []
    for match in re.finditer(re.escape(FAT_BINARY), data):
        _, _, header, size = CONTAINER.unpack_from(data, match.start())
        at, found = match.start() + header, set()
        end = at + size
        while at + ENTRY.size <= end:
            kind, _, header, size, _, _, _, _, architecture = ENTRY.unpack_from(data, at)
            if kind == MACHINE_CODE:
                found.add(architecture)
            at += header + size
        units.append(found)
    return units


@needs_cuda_build
def test_every_unit_has_code_for_every_architecture_of_build_info():
    named = {int(re.match(r"\d+", a).group()) for a in tmt_ext.build_info()["cuda_architectures"] if "virtual" not in a}
    units = [found for found in machine_code(library().read_bytes()) if found]
    assert len(units) == len(list((ROOT / "csrc" / "cuda").glob("*.cu")))
    assert all(found == named for found in units)


@needs_cuda_build
def test_every_kernel_is_there():
    data = library().read_bytes()
    assert [name for name in KERNELS if name.encode() not in data] == []


@needs_cuda_build
@pytest.mark.skipif(torch.version.cuda is not None, reason="for a torch without CUDA")
def test_without_cuda_in_torch_the_library_stays_unloaded():
    assert not tmt_ext.build_info()["cuda_loaded"]
    code = "import tmt_ext; print('libtmt_cuda' in open('/proc/self/maps').read())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "False"
