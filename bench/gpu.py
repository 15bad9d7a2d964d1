"""Measures the CUDA operators against their peers: python -m bench.gpu [--out FOLDER] [--note NAME=VALUE ...].

`--exercise` runs every kernel once at small sizes instead: what compute-sanitizer watches. See gpu.sh.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

import tmt_ext

from . import contests, goals, inputs, memory, tables, timing
from .contests import BOTH, FORWARD, Contest, Function

SUPERPIXEL = (16, 256, 128, 256, 8)  # B, C, H, W, cell: the size that the goals name, in bfloat16
SMALL_SUPERPIXEL = (4, 256, 64, 128, 4)
ATTENTION = (16, 8192)  # B, S, with 100 queries and 8 heads of 32: likewise
OTHER_ATTENTIONS = ((16, 2048), (2, 32768))
HALF, FULL = torch.bfloat16, torch.float32


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for the JSON and Markdown files")
    parser.add_argument("--note", action="append", default=[], help="NAME=VALUE to keep with the figures")
    parser.add_argument("--seconds", type=float, default=600, help="start no row later than that")
    parser.add_argument("--exercise", action="store_true", help="run every kernel once and stop")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.exercise:
        return exercise()
    torch.backends.cuda.enable_cudnn_sdp(False)  # known to give NaN gradients with masks
    torch._dynamo.config.cache_size_limit = 64  # a version for each shape, dtype and pass
    notes = dict(note.split("=", 1) for note in arguments.note)
    rows = measure_until(time.perf_counter() + arguments.seconds)
    record = {"environment": {**tables.gpu(), **notes, "same bits twice": repeats()}, "rows": rows}
    if arguments.out:
        tables.save(record, arguments.out, "gpu-" + "-".join(torch.cuda.get_device_name().split()))
    print(tables.document(record))


def measure_until(end: float) -> list[dict[str, object]]:
    """Every row, as long as there is time; the others are named."""
    rows = []
    for contest in every_contest():
        if time.perf_counter() < end:
            rows.append(measure(contest))
        else:
            print(f"left out for lack of time: {contest.row}")
    return rows


def measure(contest: Contest) -> dict[str, object]:
    able = without_failing(contest)
    mib = {name: memory.extra_on_gpu(run) for name, run in able.calls.items()}
    row = tables.record(able, timing.interleaved(able.calls, timing.on_gpu), mib)
    print(tables.line(row), file=sys.stderr, flush=True)
    return row


def without_failing(contest: Contest) -> Contest:
    """The contest without peers that this machine cannot run, for want of memory or of a compiler; they are named."""
    calls = {}
    for peer, run in contest.calls.items():
        try:
            run()
        except RuntimeError as error:
            if not calls:  # ours
                raise
            print(f"{contest.row}: {peer} does not run here: {str(error).splitlines()[0]}")
        else:
            calls[peer] = run
    return replace(contest, calls=calls)


def every_contest() -> Iterator[Contest]:
    """Those with goals first; each made when its turn comes."""
    yield from superpixels(SUPERPIXEL, HALF, goals.CUDA_SUPERPIXEL_FORWARD)
    yield from superpixel_backward()
    yield from superpixels(SUPERPIXEL, FULL)
    yield from superpixels(SMALL_SUPERPIXEL, HALF)
    aims = {FORWARD: goals.CUDA_ATTENTION_FORWARD, BOTH: goals.CUDA_ATTENTION_BOTH}
    for shaped in (False, True):
        for rule in ("uncertain", "foreground"):
            yield from attention(ATTENTION, shaped, rule, HALF, aims)
    yield from attention(ATTENTION, False, "uncertain", FULL)
    for size in OTHER_ATTENTIONS:
        yield from attention(size, True, "uncertain", HALF)
    title, function = contests.superpixel_title(SUPERPIXEL), contests.own_superpixels(SUPERPIXEL[4])
    yield from contests.half_against_full("superpixel bfloat16", title, function, (features(FULL),))


def features(dtype: torch.dtype, size: tuple[int, ...] = SUPERPIXEL) -> Tensor:
    return torch.randn(size[:4], device="cuda").to(dtype)


def superpixels(size: tuple[int, ...], dtype: torch.dtype, aims=()) -> Iterator[Contest]:
    """Both passes; the compiled peers where there are goals, as compiling takes long, gather/scatter where small."""
    functions, given = contests.superpixel_functions(size[4]), (features(dtype, size),)
    title = f"{contests.superpixel_title(size)} {name(dtype)}"
    left_out = [] if aims else ["compiled unfold", "compiled windows"]
    for peer in left_out if size == SMALL_SUPERPIXEL else [*left_out, "gather/scatter"]:
        del functions[peer]
    yield Contest("superpixel", title, FORWARD, contests.without_gradients(functions, given), aims)
    yield Contest("superpixel", title, BOTH, contests.with_backward(functions, given))


def superpixel_backward() -> Iterator[Contest]:
    """The backward alone, from what the forward saved."""
    leaf = features(HALF).requires_grad_()
    regions = contests.own_superpixels(SUPERPIXEL[4])(leaf)
    upstream = torch.randn_like(regions)
    calls = {"tmt": lambda: torch.autograd.grad(regions, leaf, upstream, retain_graph=True)}
    title = f"{contests.superpixel_title(SUPERPIXEL)} {name(HALF)}"
    yield Contest("superpixel", title, "backward", calls, goals.CUDA_SUPERPIXEL_BACKWARD)


def attention(size: tuple[int, int], shaped: bool, rule: str, dtype: torch.dtype, aims=None) -> Iterator[Contest]:
    """Both passes at (B, S)."""
    functions, qkv = attention_case(size, shaped, rule, dtype)
    title = f"attention B {size[0]} S {size[1]} {'blobs' if shaped else 'unstructured'}, {rule} {name(dtype)}"
    yield from contests.both_passes("attention", title, functions, qkv, aims or {FORWARD: (), BOTH: ()})


def attention_case(size, shaped, rule, dtype) -> tuple[dict[str, Function], list[Tensor]]:
    """The contestants under one mask, and query, key and value; mask logits in `dtype` too."""
    *qkv, mask, transferability = (x.cuda() for x in inputs.attention(*size, shaped))
    functions = contests.attention_functions(mask.to(dtype), transferability, rule)
    return functions, [x.to(dtype) for x in qkv]


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---- determinism ---------------------------------------------------------------------------------------------------


def repeats() -> str:
    """Whether results and gradients of both operators have the same bits when made twice."""
    attend, qkv = attention_case(ATTENTION, True, "uncertain", HALF)
    cases = {
        "superpixel": (contests.own_superpixels(SUPERPIXEL[4]), [features(HALF)]),
        "attention": (attend["tmt"], qkv),
    }
    return ", ".join(f"{case} {'yes' if same_bits(*calls) else 'NO'}" for case, calls in cases.items())


def same_bits(function: Function, given: list[Tensor]) -> bool:
    leaves = [tensor.requires_grad_() for tensor in given]

    def results() -> list[Tensor]:
        output = function(*leaves)
        return [output, *torch.autograd.grad(output, leaves, torch.ones_like(output))]

    return all(torch.equal(one, other) for one, other in zip(results(), results(), strict=True))


# ---- what compute-sanitizer watches ----------------------------------------------------------------------------------

# Cells of one tile and of several, cut ones, channels that fill no chunk, one region, and an image too large for the
# chip, which takes a launch a step.
EXERCISED_SUPERPIXELS = (
    ((2, 130, 13, 22), 8),
    ((1, 64, 16, 32), 8),
    ((2, 5, 9, 10), 4),
    ((1, 32, 24, 40), 16),
    ((1, 7, 3, 20), 6),
    ((1, 9, 5, 4), 1000),
    ((1, 256, 256, 256), 8),
)
EXERCISED_DIMS = (8, 32, 33, 64, 100, 128, 256)  # every cut of the head dimension, with and without tensor cores


def exercise() -> None:
    """Every kernel in every dtype, at sizes that fill no tile."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for shape, cell in EXERCISED_SUPERPIXELS:
            exercise_superpixel(shape, cell, dtype)
        for dim in EXERCISED_DIMS:
            exercise_attention(dim, dtype)
        for channels in (8, 33, 256):
            exercise_predicted_mask(channels, dtype)
    torch.cuda.synchronize()
    print("every kernel ran")


def exercise_superpixel(shape: tuple[int, ...], cell: int, dtype: torch.dtype) -> None:
    x = torch.randn(shape, device="cuda", dtype=dtype, requires_grad=True)
    result = tmt_ext.superpixel(x, cell, iterations=2)
    (result.region_features.sum() + result.assignment.square().sum()).backward()


def exercise_attention(dim: int, dtype: torch.dtype) -> None:
    """Without a mask, and under one with a row that falls back, in both ways."""
    qkv = [torch.randn(1, 2, n, dim, device="cuda", dtype=dtype, requires_grad=True) for n in (19, 150, 150)]
    mask = torch.randn(1, 19, 150, device="cuda", dtype=dtype)
    transferability = torch.rand(1, 150, device="cuda")
    mask[:, 3] = 9
    tmt_ext.masked_attention(*qkv).square().sum().backward()
    for fallback in ("all", "transfer"):
        options = {"transfer_threshold": 0.7, "fallback": fallback}
        tmt_ext.masked_attention(*qkv, mask, transferability, **options).square().sum().backward()


def exercise_predicted_mask(channels: int, dtype: torch.dtype) -> None:
    embeddings = torch.randn(2, 19, channels, device="cuda", dtype=dtype)
    maps = torch.randn(2, channels, 150, device="cuda", dtype=dtype)
    tmt_ext.pack_predicted_mask(embeddings, maps, rule="foreground")
    for fallback in ("all", "transfer"):
        tmt_ext.pack_predicted_mask(
            embeddings, maps, torch.rand(2, 150, device="cuda"), transfer_threshold=0.7, fallback=fallback
        )


if __name__ == "__main__":
    main()
