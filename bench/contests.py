"""Who is timed against whom, and how figures are kept: the same on the CPU and on a GPU."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import tmt_ext

from . import peers

KAPPA = 1 / 0.07
RULE = "foreground"


def superpixels(cell: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """The superpixel iteration: features (B, C, H, W) -> region features (B, C, h, w)."""
    return {
        "tmt": lambda x: tmt_ext.superpixel(x, cell, iterations=6, kappa=KAPPA).region_features,
        "unfold": lambda x: peers.superpixel_unfold(x, cell, 6, KAPPA)[0],
    }


def attention(mask: Tensor, transferability: Tensor) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Masked attention of query, key and value under mask (B, N, S) and transferability (B, S), p_T = 0.3."""
    threshold = torch.quantile(transferability, 0.7, dim=1)
    given, options = (mask, transferability, threshold, RULE), {"transfer_threshold": threshold, "rule": RULE}
    return {
        "tmt": lambda q, k, v: tmt_ext.masked_attention(q, k, v, mask, transferability, **options),
        "sdpa, boolean mask": lambda q, k, v: peers.attention_sdpa(q, k, v, *given),
        "mask2former": lambda q, k, v: peers.attention_mask2former(q, k, v, *given),
    }


def origin() -> dict[str, str]:
    """When, and with which code."""
    today, revision = datetime.date.today().isoformat(), tmt_ext.build_info()["revision"]
    return {"date": today, "torch": torch.__version__, "revision": revision}


def save(path: Path, record: dict[str, object]) -> None:
    """Writes figures as JSON, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
