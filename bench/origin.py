"""Where, when and with what figures were taken."""

import datetime
import platform
import subprocess
from pathlib import Path

import torch
import transformers

import tmt_ext
from tmt.runtime.waiting import waiting


def gpu() -> dict[str, str]:
    """What the figures of a GPU were taken on."""
    return {"device": torch.cuda.get_device_name(), "CUDA": tmt_ext.build_info()["cuda_version"], **origin()}


def cpu() -> dict[str, str]:
    """What the figures of a CPU were taken on."""
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.exists() else []
    models = {line.split(":")[1].strip() for line in lines if line.startswith("model name")}
    return {
        "processor": ", ".join(sorted(models)) or platform.processor() or platform.machine(),
        "threads": str(torch.get_num_threads()),
        "waiting": ", ".join(f"{name} {value}" for name, value in waiting().items()) or "as torch has it",
        "instructions": tmt_ext.build_info()["simd_active"],
        **origin(),
    }


def origin() -> dict[str, str]:
    """When, with which code and which versions."""
    info = tmt_ext.build_info()
    return {
        "date": datetime.date.today().isoformat(),
        "revision": _revision() or info["revision"],
        "extension built from": info["revision"],
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}, {info['compiler']}",
    }


def _revision() -> str:
    """The checkout's commit, with + where files but results differ from it; nothing without a checkout or git."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":(top)", ":(top,exclude)bench/results")
    return f"{commit}+" if commit and changed else commit


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    try:
        found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    except FileNotFoundError:
        return ""
    return found.stdout.strip()
