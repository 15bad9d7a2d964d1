"""Fails unless the CUDA kernels are loaded and every operator has one: python -m bench.loaded. Needs no GPU."""

import sys
from collections.abc import Callable, Iterable

import torch

import tmt_ext


def main() -> None:
    info, names = tmt_ext.build_info(), operators()
    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}")
    print(*(f"{name}: {value}" for name, value in info.items()), sep="\n")
    if not info["cuda_loaded"]:
        sys.exit("loaded: cuda_loaded is False; torch and the build must both have CUDA")
    if missing := without_cuda_kernels(names):
        sys.exit(f"loaded: every operator must have a CUDA kernel, got none of {', '.join(missing)}")
    print(f"CUDA kernels of {len(names)} operators: {', '.join(names)}")


def operators() -> list[str]:
    """Names of all operators of `tmt`."""
    names = torch._C._dispatch_get_all_op_names()
    return sorted(name.removeprefix("tmt::") for name in names if name.startswith("tmt::"))


def without_cuda_kernels(
    names: Iterable[str],
    has_kernel: Callable[[str, str], bool] = torch._C._dispatch_has_kernel_for_dispatch_key,
) -> list[str]:
    return [name for name in names if not has_kernel(f"tmt::{name}", "CUDA")]


if __name__ == "__main__":
    main()
