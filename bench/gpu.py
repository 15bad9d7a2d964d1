"""Times the CUDA operators against their peers: python -m bench.gpu [--json FILE] [--note NAME=VALUE ...].

`--exercise` runs every kernel once at small sizes instead: what compute-sanitizer watches. See gpu.sh.
"""

import argparse
from pathlib import Path

import torch

import tmt_ext

from . import contests
from .timing import interleaved, passes

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
        contests.save(arguments.json, record)
    print("\n".join(table(rows)), record["environment"], record["notes"], sep="\n")


def environment() -> dict[str, str]:
    cuda = tmt_ext.build_info()["cuda_version"]
    return {"device": torch.cuda.get_device_name(), "cuda": cuda, **contests.origin()}


def superpixel_rows(size: tuple[int, ...], dtype: torch.dtype, rounds: int) -> list[dict[str, object]]:
    """Forward, and forward + backward, of the superpixel iteration at one size (B, C, H, W, cell)."""
    *shape, cell = size
    features = torch.randn(shape, device="cuda", dtype=dtype)
    return both_passes(
        f"superpixel {tuple(shape)} cell {cell} {name(dtype)}", contests.superpixels(cell), (features,), rounds
    )


def attention_rows(size: tuple[int, int, int], dtype: torch.dtype, rounds: int) -> list[dict[str, object]]:
    """Forward, and forward + backward, of the masked attention, 8 heads of 32, random mask, p_T = 0.3."""
    batch, queries, keys = size
    qkv = [torch.randn(batch, 8, count, 32, device="cuda", dtype=dtype) for count in (queries, keys, keys)]
    mask = torch.randn(batch, queries, keys, device="cuda", dtype=dtype)
    transferability = torch.rand(batch, keys, device="cuda")
    return both_passes(
        f"attention B {batch} N {queries} S {keys} {name(dtype)}",
        contests.attention(mask, transferability),
        qkv,
        rounds,
    )


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def both_passes(title, contestants, inputs, rounds) -> list[dict[str, object]]:
    """One row a pass: median milliseconds and peak extra MiB of each contestant."""
    return [
        {
            "title": title,
            "pass": which,
            "ms": interleaved(calls, rounds),
            "mib": {name: extra_memory(call) for name, call in calls.items()},
        }
        for which, calls in passes(contestants, inputs).items()
    ]


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
