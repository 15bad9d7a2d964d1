"""Runs of the CUDA kernels for tools that watch them: once each at the goals' sizes, or at many small sizes."""

import json
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

import tmt_ext

from . import contests, gpu_contests
from .contests import Function
from .device import GPU, Device
from .gpu_contests import HALF, Sizes

KERNELS = Path(__file__).resolve().parent.parent / "csrc" / "kernels.json"


# ---- once at the goals' sizes ---------------------------------------------------------------------------------------


def profile() -> None:
    """Nsight Compute's full report on the main kernels of `once`; takes this process's place."""
    options = ["--set", "full", "--clock-control", "none", "--kernel-name", main_kernels()]  # clocks as in the timings
    os.execvp("ncu", ["ncu", *options, sys.executable, "-m", "bench.gpu", "once"])


def main_kernels() -> str:
    """As ncu takes names: those that csrc/kernels.json calls main."""
    kernels = json.loads(KERNELS.read_text())
    return f"regex:^({'|'.join(name for name, about in kernels.items() if about['main'])})$"


def once(device: Device = GPU, sizes: Sizes | None = None) -> None:
    """Forward and backward of every operator."""
    sizes = sizes or Sizes()
    sampled, samples = gpu_contests.deformable_case(device, sizes.deformable, HALF)
    for function, given in [*operators(device, sizes).values(), (sampled["tmt"], samples)]:
        contests.with_backward({"tmt": function}, given)["tmt"]()


def repeats(device: Device, sizes: Sizes) -> str:
    """Whether results and gradients have the same bits when made twice, of the operators that promise it always."""
    cases = operators(device, sizes).items()
    return ", ".join(f"{name} {'yes' if same_bits(*case) else 'NO'}" for name, case in cases)


def operators(device: Device, sizes: Sizes) -> dict[str, tuple[Function, list[Tensor]]]:
    attend, qkv = gpu_contests.attention_case(device, sizes.attention, True, "uncertain", HALF)
    image = gpu_contests.features(device, sizes.superpixel, HALF)
    return {"superpixel": (contests.own_superpixels(sizes.superpixel[4]), [image]), "attention": (attend["tmt"], qkv)}


def same_bits(function: Function, given: list[Tensor]) -> bool:
    leaves = [tensor.detach().requires_grad_() for tensor in given]

    def results() -> list[Tensor]:
        output = function(*leaves)
        return [output, *torch.autograd.grad(output, leaves, torch.ones_like(output))]

    return all(torch.equal(one, other) for one, other in zip(results(), results(), strict=True))


# ---- what compute-sanitizer watches ---------------------------------------------------------------------------------

# Cells of several tiles, cut ones, channels that fill no chunk, one region; the last is too large for the chip, where
# every step is a launch.
EXERCISED_SUPERPIXELS = (((2, 130, 13, 22), 8), ((2, 5, 9, 10), 4), ((1, 9, 5, 4), 1000), ((1, 256, 256, 256), 8))
EXERCISED_DIMS = (32, 33, 128)  # of heads: with and without tensor cores


def exercise(device: str = "cuda", superpixels=EXERCISED_SUPERPIXELS) -> None:
    """Every kernel in float32 and bfloat16, at sizes that fill no tile; float16 takes the same way as bfloat16."""
    for dtype in (torch.float32, torch.bfloat16):
        for shape, cell in superpixels:
            print(f"superpixel {shape} cell {cell} {dtype}", flush=True)
            exercise_superpixel(torch.randn(shape, device=device, dtype=dtype, requires_grad=True), cell)
        for dim in EXERCISED_DIMS:
            print(f"attention D {dim} {dtype}", flush=True)
            exercise_attention(device, dim, dtype)
        for channels in (33, 256):
            print(f"predicted mask E {channels} {dtype}", flush=True)
            exercise_predicted_mask(device, channels, dtype)
        for dim in (32, 17):
            print(f"deformable attention D {dim} {dtype}", flush=True)
            exercise_deformable(device, dim, dtype)
    print("every kernel ran")


def exercise_superpixel(x: Tensor, cell: int) -> None:
    result = tmt_ext.superpixel(x, cell, iterations=2)
    (result.region_features.sum() + result.assignment.square().sum()).backward()


def exercise_attention(device: str, dim: int, dtype: torch.dtype) -> None:
    """Without a mask, and under one with a row that falls back, in both ways."""
    qkv = [torch.randn(1, 2, n, dim, device=device, dtype=dtype, requires_grad=True) for n in (19, 150, 150)]
    mask, transferability = torch.randn(1, 19, 150, device=device, dtype=dtype), torch.rand(1, 150, device=device)
    mask[:, 3] = 9
    tmt_ext.masked_attention(*qkv).square().sum().backward()
    for fallback in ("all", "transfer"):
        options = {"transfer_threshold": 0.7, "fallback": fallback}
        tmt_ext.masked_attention(*qkv, mask, transferability, **options).square().sum().backward()


def exercise_predicted_mask(device: str, channels: int, dtype: torch.dtype) -> None:
    embeddings = torch.randn(2, 19, channels, device=device, dtype=dtype)
    maps, transferability = torch.randn(2, channels, 150, device=device, dtype=dtype), torch.rand(2, 150, device=device)
    tmt_ext.pack_predicted_mask(embeddings, maps, rule="foreground")
    for fallback in ("all", "transfer"):
        options = {"transfer_threshold": 0.7, "fallback": fallback}
        tmt_ext.pack_predicted_mask(embeddings, maps, transferability, **options)


def exercise_deformable(device: str, dim: int, dtype: torch.dtype) -> None:
    """Samples within and beyond the maps; gradients of values in any order, and in one."""
    value = torch.randn(2, 31, 3, dim, device=device, dtype=dtype, requires_grad=True)
    locations = (1.6 * torch.rand(2, 19, 3, 2, 4, 2, device=device) - 0.3).requires_grad_()
    weights = torch.randn(2, 19, 3, 2, 4, device=device, requires_grad=True)
    for deterministic in (False, True):
        output = torch.ops.tmt.deformable_attention(value, [4, 6, 7, 1], locations, weights)
        upstream = torch.randn_like(output)
        given = (upstream, value, [4, 6, 7, 1], locations, weights, deterministic)
        torch.ops.tmt.deformable_attention_backward(*given)
