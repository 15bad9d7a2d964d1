"""Loads the compiled libraries. A missing or broken one is an error that says what to do; nothing falls back."""

import functools
import importlib
import sys
from pathlib import Path

import torch

MEND = "build it with `pip install .` in the project's folder (needs g++; CUDA kernels are added where nvcc is found)"


def load():
    """Loads the CPU operators, and the CUDA ones where both this build and torch have CUDA.

    Raises ImportError, with the mend, when the extension is absent or does not fit the installed torch.
    """
    try:
        extension = importlib.import_module("tmt_ext._C")
    except ImportError as error:
        raise ImportError(f"tmt_ext: the compiled extension cannot be loaded ({error}); {_mend()}") from error
    if torch.version.cuda is not None and extension.build_info()["cuda_version"]:
        _load_cuda()


def _mend():
    """What to do without an extension; in the project's folder its sources may hide an installed one."""
    here = Path(__file__).parent
    if (here.parent / "csrc").is_dir() and any(
        Path(place or ".").resolve() != here.parent and any(Path(place, "tmt_ext").glob("_C.*")) for place in sys.path
    ):
        return (
            f"python found the sources in {here.parent} before the installed package: use the command `tmt` (`tmt "
            "train` for `python -m tmt.train`), or work in another folder"
        )
    return MEND


def _load_cuda():
    try:
        torch.ops.load_library(str(_cuda_library()))
    except OSError as error:
        why = error.__cause__ or error  # torch's own error may name the file alone
        raise ImportError(f"tmt_ext: the compiled CUDA kernels cannot be loaded ({why}); {MEND}") from error


def build_info():
    """What this build is made of.

    Returns a dict: version, revision, compiler (str); cuda_version (str, empty without CUDA), cuda_architectures
    (list[str]); simd_levels (list[str]), simd_active (str); torch_abi (str, the oldest torch it runs on);
    cuda_loaded (bool, whether CUDA tensors can be used in this process).
    """
    info = importlib.import_module("tmt_ext._C").build_info()
    return {**info, "cuda_loaded": _cuda_loaded()}


def require_device(operator, **tensors):
    """Raises RuntimeError unless the tensors (None: not given) share one device that this build has kernels for."""
    if all(tensor is None or tensor.is_cpu for tensor in tensors.values()):
        return  # the usual case, without the objects made below
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    first, reference = next(iter(given.items()))
    for name, tensor in given.items():
        if tensor.device != reference.device:
            wanted = f"must be on the device of {first}, {reference.device}, got {tensor.device}"
            raise RuntimeError(f"{operator}: {name} {wanted}; move it there")
    if reference.is_cuda and not _cuda_loaded():
        raise RuntimeError(
            f"{operator}: got a CUDA tensor, but this build has no CUDA kernels; rebuild where nvcc is found "
            "(TMT_CUDA=1 pip install .) or move the tensors to the CPU"
        )


@functools.cache
def _cuda_loaded():
    """Whether `load` has loaded the CUDA operators; asked at every call of an operator on CUDA."""
    return str(_cuda_library()) in torch.ops.loaded_libraries


def _cuda_library():
    return Path(__file__).parent / "libtmt_cuda.so"
