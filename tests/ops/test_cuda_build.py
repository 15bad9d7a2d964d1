"""The CUDA library as built: for which GPUs, with every kernel, loadable under any torch with CUDA. Needs no GPU."""

import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tmt_ext
from tmt_ext._library import require_device

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
KERNELS += ["attend_backward", "attend_samples", "differentiate_samples"]
PTX, MACHINE_CODE = 1, 2  # kinds of the entries of a fat binary
FAT_BINARY = struct.pack("<I", 0xBA55ED50)
CONTAINER = struct.Struct("<IHHQ")  # magic, version, header size, size of the entries
ENTRY = struct.Struct("<HHIQIIHHI")  # kind, flags, header size, size, 4 we skip, architecture

needs_cuda_build = pytest.mark.skipif(not tmt_ext.build_info()["cuda_version"], reason="this build has no CUDA kernels")


def library():
    (path,) = Path(tmt_ext.__file__).parent.glob("libtmt_cuda.so")
    return path


def fat_binaries(data):
    """What a file's fat binaries hold: for each translation unit, {(kind, architecture), ...}."""
    units = []
    for match in re.finditer(re.escape(FAT_BINARY), data):
        _, _, header, size = CONTAINER.unpack_from(data, match.start())
        at, found = match.start() + header, set()
        end = at + size
        while at + ENTRY.size <= end:
            kind, _, header, size, _, _, _, _, architecture = ENTRY.unpack_from(data, at)
            found.add((kind, architecture))
            at += header + size
        units.append(found)
    return [unit for unit in units if unit]


def named(architecture):
    """What an entry of cuda_architectures stands for: 90-real machine code, 90-virtual PTX, 90 both."""
    number, _, only = architecture.partition("-")
    kinds = {"real": [MACHINE_CODE], "virtual": [PTX], "": [PTX, MACHINE_CODE]}[only]
    return {(kind, int(number.rstrip("af"))) for kind in kinds}


@needs_cuda_build
def test_every_unit_has_code_for_every_architecture_of_build_info():
    wanted = set().union(*map(named, tmt_ext.build_info()["cuda_architectures"]))
    units = fat_binaries(library().read_bytes())
    assert len(units) == len(list((ROOT / "csrc").rglob("*.cu")))
    assert all(found == wanted for found in units)


@needs_cuda_build
def test_every_kernel_is_there():
    data = library().read_bytes()
    assert [name for name in KERNELS if name.encode() not in data] == []


def architectures(folder, requested):
    """What CMake builds for, where no GPU is seen: a list in its own form."""
    script = folder / "show.cmake"
    module = ROOT / "cmake" / "CudaArchitectures.cmake"
    script.write_text(
        f'set(TMT_CUDA_ARCHITECTURES "{requested}")\ninclude({module})\nmessage("${{TMT_ARCHITECTURES}}")'
    )
    cmake = shutil.which("cmake") or str(Path(sys.executable).parent / "cmake")
    run = subprocess.run([cmake, "-P", script], capture_output=True, text=True, env={**os.environ, "PATH": ""})
    return run.stderr.strip().split(";")


def test_default_architectures_have_ptx_for_the_gpus_between_and_are_what_ci_builds(tmp_path):
    default = architectures(tmp_path, "")
    assert default == ["80-real", "86-real", "89-real", "90", "120"]
    in_ci = re.search('TORCH_CUDA_ARCH_LIST="(.*)"', (ROOT / ".ci" / "run").read_text()).group(1)
    assert architectures(tmp_path, in_ci) == default
    assert "must look like 9.0" in " ".join(architectures(tmp_path, "hopper"))


def dynamic_section(path, tag):
    """Values of one kind of entry, such as NEEDED, of a library's dynamic section."""
    lines = subprocess.run(["readelf", "--dynamic", "--wide", str(path)], capture_output=True, text=True, check=True)
    return re.findall(rf"\({tag}\) .*\[(.*)\]", lines.stdout)


@needs_cuda_build
def test_it_names_the_torch_libraries_that_it_takes_symbols_from():
    """Python loads torch's libraries locally: symbols of a library that is not named here are not found."""
    assert {"libtorch_cpu.so", "libtorch_cuda.so"} <= set(dynamic_section(library(), "NEEDED"))


@needs_cuda_build
def test_no_stub_is_installed():
    assert not list(Path(tmt_ext.__file__).parent.rglob("libtorch*"))


def test_no_library_looks_into_folders_of_the_machine_that_built_it():
    for path in Path(tmt_ext.__file__).parent.glob("*.so"):
        assert dynamic_section(path, "NEEDED")
        assert dynamic_section(path, "RUNPATH") == dynamic_section(path, "RPATH") == []


@needs_cuda_build
@pytest.mark.skipif(torch.version.cuda is not None, reason="for a torch without CUDA")
def test_without_cuda_in_torch_the_library_stays_unloaded():
    assert not tmt_ext.build_info()["cuda_loaded"]
    code = "import tmt_ext; print('libtmt_cuda' in open('/proc/self/maps').read())"
    assert in_python(code).stdout.strip() == "False"


def in_python(code, folder=ROOT):
    """Runs code in a new process that imports from `folder` first."""
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=environment)


@needs_cuda_build
def test_a_broken_library_says_how_to_mend_it(tmp_path):
    package = tmp_path / "tmt_ext"
    shutil.copytree(Path(tmt_ext.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "libtmt_cuda.so").write_bytes(b"no library")
    skip = "sys.meta_path = [f for f in sys.meta_path if '__editable__' not in repr(f)]"
    run = in_python(f"import sys, torch; {skip}; torch.version.cuda = '13.0'; import tmt_ext", tmp_path)
    assert run.returncode == 1
    assert re.search("ImportError: tmt_ext: .* CUDA kernels cannot be loaded .*file too short.*pip install", run.stderr)


@pytest.mark.skipif(tmt_ext.build_info()["cuda_loaded"], reason="for a process without CUDA kernels")
def test_a_cuda_tensor_without_cuda_kernels_is_refused():
    tensor = SimpleNamespace(is_cpu=False, is_cuda=True, device="cuda:0")
    with pytest.raises(RuntimeError, match="superpixel: got a CUDA tensor, but this build has no CUDA kernels"):
        require_device("superpixel", features=tensor)
