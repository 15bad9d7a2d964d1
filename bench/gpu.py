"""Times the CUDA operators against their peers: python -m bench.gpu [--json FILE] [--note NAME=VALUE ...].

`--exercise` runs every kernel once at small sizes instead: what compute-sanitizer watches. See gpu.sh.
"""

import argparse
import datetime
import json
from pathlib import Path

import torch

import tmt_ext

from . import peers
from .timing import forward_backward, interleaved

KAPPA = 1 / 0.07
SUPERPIXEL_SIZES = ((16, 256, 128, 256, 8), (4, 256, 64, 128, 4))  # B, C, H, W, cell
ATTENTION_SIZES = ((16, 100, 2048), (16, 100, 8192), (2, 100, 32768))  # B, N, S; 8 heads of 32
DTYPES = (torch.float32, torch.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds; the median counts")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--note", action="append", default=[], help="NAME=VALUE to keep with the figures")
    parser.add_argument("--exercise", action="store_true", help="run every kernel once and stop")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.exercise:
        return exercise()
    torch.backends.cuda.enable_cudnn_sdp(False)  # known to give NaN gradients with masks
    rows = [
        row for size in SUPERPIXEL_SIZES for dtype in DTYPES for row in superpixel_rows(size, dtype, arguments.rounds)
    ]
    rows += [
        row for size in ATTENTION_SIZES for dtype in DTYPES for row in attention_rows(size, dtype, arguments.rounds)
    ]
    record = {"environment": environment(), "notes": dict(n.split("=", 1) for n in arguments.note), "rows": rows}
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    print("\n".join(table(rows)), record["environment"], record["notes"], sep="\n")


def environment() -> dict[str, str]:
    info = tmt_ext.build_info()
    return {
        "device": torch.cuda.get_device_name(),
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "cuda": info["cuda_version"],
        "revision": info["revision"],
    }


def superpixel_rows(size: tuple[int, ...], dtype: torch.dtype, rounds: int) -> list[dict[str, object]]:
    """Forward, and forward + backward, of the superpixel iteration at one size (B, C, H, W, cell)."""
    *shape, cell = size
    features = torch.randn(shape, device="cuda", dtype=dtype)
    contestants = {
        "tmt": lambda x: tmt_ext.superpixel(x, cell, iterations=6, kappa=KAPPA).region_features,
        "unfold": lambda x: peers.superpixel_unfold(x, cell, 6, KAPPA)[0],
    }
    return both_passes(f"superpixel {tuple(shape)} cell {cell} {name(dtype)}", contestants, (features,), rounds)


def attention_rows(size: tuple[int, int, int], dtype: torch.dtype, rounds: int) -> list[dict[str, object]]:
    """Forward, and forward + backward, of the masked attention, 8 heads of 32, random mask, p_T = 0.3."""
    batch, queries, keys = size
    qkv = [torch.randn(batch, 8, count, 32, device="cuda", dtype=dtype) for count in (queries, keys, keys)]
    mask = torch.randn(batch, queries, keys, device="cuda", dtype=dtype)
    transferability = torch.rand(batch, keys, device="cuda")
    threshold = torch.quantile(transferability, 0.7, dim=1)
    given = (mask, transferability, threshold, "foreground")
    options = {"transfer_threshold": threshold, "rule": "foreground"}
    contestants = {
        "tmt": lambda q, k, v: tmt_ext.masked_attention(q, k, v, mask, transferability, **options),
        "sdpa, boolean mask": lambda q, k, v: peers.attention_sdpa(q, k, v, *given),
        "mask2former": lambda q, k, v: peers.attention_mask2former(q, k, v, *given),
    }
    return both_passes(f"attention B {batch} N {queries} S {keys} {name(dtype)}", contestants, qkv, rounds)


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def both_passes(title, contestants, inputs, rounds) -> list[dict[str, object]]:
    """One row a pass: median milliseconds and peak extra MiB of each contestant."""
    forward = {name: (lambda f=function: f(*inputs)) for name, function in contestants.items()}
    training = {name: forward_backward(function, *inputs) for name, function in contestants.items()}
    with torch.no_grad():
        first = {"ms": interleaved(forward, rounds), "mib": {n: extra_memory(f) for n, f in forward.items()}}
    second = {"ms": interleaved(training, rounds), "mib": {n: extra_memory(f) for n, f in training.items()}}
    return [{"title": title, "pass": "forward", **first}, {"title": title, "pass": "forward + backward", **second}]


def extra_memory(run) -> float:
    """MiB allocated at the peak of `run` beyond what was there before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def table(rows: list[dict[str, object]]) -> list[str]:
    lines = [f"{'what':46} {'pass':18} {'ms':>8} {'MiB':>7}  peers: ms (times tmt's), MiB"]
    for row in rows:
        ms, mib = row["ms"], row["mib"]
        others = "; ".join(f"{n} {ms[n]:.3f} ({ms[n] / ms['tmt']:.1f}x), {mib[n]:.0f}" for n in ms if n != "tmt")
        lines.append(f"{row['title']:46} {row['pass']:18} {ms['tmt']:8.3f} {mib['tmt']:7.0f}  {others}")
    return lines


def exercise() -> None:
    """Every kernel, every dtype, every cut of the head dimension, sizes that fill no tile."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for shape, cell in (((2, 130, 13, 22), 8), ((1, 5, 9, 10), 4)):
            x = torch.randn(shape, device="cuda", dtype=dtype, requires_grad=True)
            result = tmt_ext.superpixel(x, cell, iterations=2)
            (result.region_features.sum() + result.assignment.square().sum()).backward()
        for dim in (8, 33, 64, 100, 256):
            q, k, v = (
                torch.randn(1, 2, n, dim, device="cuda", dtype=dtype, requires_grad=True) for n in (19, 150, 150)
            )
            mask, transferability = (
                torch.randn(1, 19, 150, device="cuda", dtype=dtype),
                torch.rand(1, 150, device="cuda"),
            )
            mask[:, 3] = 9
            for fallback in ("all", "transfer"):
                output = tmt_ext.masked_attention(
                    q, k, v, mask, transferability, transfer_threshold=0.7, fallback=fallback
                )
                output.square().sum().backward()
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
