"""One line of a CUDA kernel made wrong, in a copy of csrc, must fail the emulated checks: they can fail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import emulated
import pytest


class Fault(NamedTuple):
    """`text`, once in csrc/`file`, becomes `fault`; `unit` is compiled with it; `check` must fail, with `sign`."""

    name: str
    file: str
    unit: str
    text: str
    fault: str
    check: tuple
    sanitize: str = ""
    sign: str = ""


ADDRESS = "address"
PACK_MASK = ("check_pack_mask", "foreground", "transfer", 150)
FAULTS = [
    Fault(
        "a wrong index",
        "attention/cuda/pack_common.cuh",
        "attention/cuda/pack_mask",
        "byte |= decide(values[i]) ? 1u << i : 0u;",
        "byte |= decide(values[i]) ? 1u << (i ^ 1) : 0u;",
        PACK_MASK,
    ),
    Fault(
        "a missing barrier",
        "superpixel/cuda/common.cuh",
        "superpixel/cuda/forward",
        "block_barrier();  // everyone is done with the chunk before",
        "",
        ("check_superpixel", (1, 130, 8, 13), 8),
    ),
    Fault(
        "a bad fragment",
        "superpixel/cuda/products.cuh",
        "superpixel/cuda/forward",
        "{ninth[2 * half], ninth[2 * half + 1]}",
        "{ninth[2 * half + 1], ninth[2 * half]}",
        ("check_superpixel", (1, 40, 16, 24), 8, "bfloat16"),
    ),
    Fault(
        "a copy that nobody waits for",
        "attention/cuda/tensor_forward.cu",
        "attention/cuda/tensor_forward",
        "wait_copies<kDepth - 2>();",
        "wait_copies<kDepth - 1>();",
        ("check_attention", (1, 2, 20, 300, 32), "bfloat16"),
    ),
    Fault(
        "a bit in another's place",
        "attention/cuda/plan.cuh",
        "attention/cuda/plan",
        "return bit % 16 / 2 * 8 + bit / 16 * 2 + bit % 2;",
        "return bit;",
        ("check_attention", (1, 2, 20, 300, 32), "bfloat16"),
    ),
    Fault(
        "a NaN that becomes a weight",
        "attention/cuda/tensor_gradients.cuh",
        "attention/cuda/tensor_backward",
        "min_or_nan(",
        "fminf(",
        ("check_attention_nan", "bfloat16", False, "query"),
    ),
    Fault(
        "a stride of another tensor",
        "attention/cuda/tensor.cuh",
        "attention/cuda/tensor_forward",
        "seconds(second, chunk)",
        "seconds({second.data, first.stride}, chunk)",
        ("check_value_strides", "bfloat16"),
    ),
    Fault(
        "a group that nobody waits for",
        "superpixel/cuda/exchange.cuh",
        "superpixel/cuda/forward",
        "(abs(across) < 2 || plan.group_columns == 1)",
        "abs(across) < 2",
        ("check_superpixel", (1, 40, 16, 24), 8, "bfloat16"),
    ),
    Fault(
        "a group that waits too long",
        "superpixel/cuda/exchange.cuh",
        "superpixel/cuda/forward",
        "kMostLooks = 1u << 26;",
        "kMostLooks = 0;",
        ("check_superpixel", (1, 40, 16, 24), 8, "bfloat16"),
        sign=": a trap",
    ),
    Fault(
        "a halo whose rows share their place",
        "superpixel/cuda/plan.cuh",
        "superpixel/cuda/forward",
        "return y * row + x * region;",
        "return y * region + x * region;",
        ("check_superpixel", (1, 40, 16, 24), 8, "bfloat16"),
    ),
    Fault(
        "a read past the end",
        "attention/cuda/pack_common.cuh",
        "attention/cuda/pack_mask",
        "first + i < count ? static_cast<float>(row[first + i]) : NAN",
        "static_cast<float>(row[first + i])",
        PACK_MASK,
        ADDRESS,
    ),
]


def run(library, check, sanitize=""):
    """The finished process of planted_fault.py."""
    environment = dict(os.environ)
    if sanitize:
        names = ("libasan.so", "libubsan.so")
        found = [subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip() for name in names]
        environment |= {"LD_PRELOAD": ":".join(found), "ASAN_OPTIONS": "detect_leaks=0"}
    script = Path(__file__).with_name("planted_fault.py")
    command = [sys.executable, str(script), str(library), *map(repr, check)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def planted(fault, csrc):
    """The unit with the fault, in a copy of the sources at `csrc`."""
    shutil.copytree(emulated.CSRC, csrc, ignore=shutil.ignore_patterns("cpu"))
    file = csrc / fault.file
    assert file.read_text().count(fault.text) == 1, f"{fault.name}: its text is not once in {fault.file}"
    file.write_text(file.read_text().replace(fault.text, fault.fault))
    return csrc / f"{fault.unit}.cu"


def place(unit):
    """Of a file in its csrc."""
    return unit.relative_to(emulated.sources_of(unit))


def library(unit, sanitize):
    """All kernels with this unit, first, in the place of its like (what several units compile is taken from the first);
    sanitized, it alone: that takes long to compile.
    """
    others = [] if sanitize else [other for other in emulated.kernel_units() if place(other) != place(unit)]
    return emulated.library([unit, *others], sanitize)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault_fails(fault, tmp_path):
    done = run(library(planted(fault, tmp_path / "csrc"), fault.sanitize), fault.check, fault.sanitize)
    signs = (
        ("AddressSanitizer",) if fault.sanitize else (fault.sign,) if fault.sign else ("AssertionError", "emulation: ")
    )
    assert done.returncode != 0 and any(sign in done.stderr for sign in signs), done.stderr


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_without_the_fault_the_check_passes(fault):
    done = run(library(emulated.CSRC / f"{fault.unit}.cu", fault.sanitize), fault.check, fault.sanitize)
    assert done.returncode == 0, done.stderr
