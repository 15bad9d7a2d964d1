"""The rows of a GPU: the operators by themselves, against eager peers, and against compiled ones.

Goals are for bfloat16 at Sizes().superpixel and Sizes().attention, with 100 queries and 8 heads of 32.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from . import contests, goals, inputs
from .contests import BOTH, FORWARD, Contest, Function
from .device import Call, Device
from .goals import Goal
from .timing import Calls

HALF, FULL = torch.bfloat16, torch.float32
PASSES = {FORWARD: contests.without_gradients, BOTH: contests.with_backward}
Aims = dict[str, tuple[Goal, ...]]  # by pass
SUPERPIXEL_GOALS: Aims = {FORWARD: goals.CUDA_SUPERPIXEL_FORWARD, "backward": goals.CUDA_SUPERPIXEL_BACKWARD}
ATTENTION_GOALS: Aims = {FORWARD: goals.CUDA_ATTENTION_FORWARD, BOTH: goals.CUDA_ATTENTION_BOTH}
NO_AIMS: Aims = {}
EAGER_SUPERPIXELS = ("tmt", "unfold", "windows")
EAGER_ATTENTION = ("tmt", "sdpa", "sdpa, gathered", "mask2former")


@dataclass(frozen=True)
class Sizes:
    superpixel: tuple[int, ...] = (16, 256, 128, 256, 8)  # B, C, H, W, cell
    small_superpixel: tuple[int, ...] = (4, 256, 64, 128, 4)
    attention: tuple[int, int] = (16, 8192)  # B, S
    other_attentions: tuple[tuple[int, int], ...] = ((16, 2048), (2, 32768))
    deformable: tuple[int, tuple[int, int]] = (16, (512, 1024))  # B, crop


@dataclass(frozen=True)
class Row:
    """A contest whose inputs and calls are made when its turn comes, and may fail there."""

    group: str
    title: str
    step: str
    make: Callable[[], Calls]
    goals: tuple[Goal, ...] = ()

    def contest(self) -> Contest:
        return Contest(self.group, self.title, self.step, self.make(), self.goals)


# ---- ours alone, eager and as CUDA graphs ---------------------------------------------------------------------------


def own(device: Device, sizes: Sizes) -> Iterator[Row]:
    """Those with goals first."""
    yield from own_superpixels(device, sizes.superpixel, HALF, SUPERPIXEL_GOALS)
    for shaped, rule in attention_kinds():
        yield from own_attention(device, sizes.attention, shaped, rule, HALF, ATTENTION_GOALS)
    yield from own_superpixels(device, sizes.superpixel, FULL)
    yield from own_attention(device, sizes.attention, True, "uncertain", FULL)
    for dtype in (HALF, FULL):
        yield from own_deformable(device, sizes.deformable, dtype)


def own_superpixels(device, size, dtype, aims: Aims = NO_AIMS) -> Iterator[Row]:
    makers = {step: functools.partial(superpixel_alone, device, size, dtype, bind) for step, bind in PASSES.items()}
    makers["backward"] = functools.partial(superpixel_backward, device, size, dtype)
    for step, make in makers.items():
        yield Row("superpixel", superpixel_title(size, dtype), step, make, limits(aims.get(step, ())))


def superpixel_alone(device, size, dtype, bind) -> Calls:
    return with_graph(device, bind({"tmt": contests.own_superpixels(size[4])}, (features(device, size, dtype),))["tmt"])


def superpixel_backward(device: Device, size: tuple[int, ...], dtype: torch.dtype) -> Calls:
    """The backward alone, from what a forward saved: one for the eager calls, one on the stream of graphs."""
    eager = backward_alone(device, size, dtype)
    with device.stream():
        captured = device.graph(backward_alone(device, size, dtype))
    return {"tmt": eager, "graph": captured}


def backward_alone(device: Device, size: tuple[int, ...], dtype: torch.dtype) -> Call:
    leaf = features(device, size, dtype).requires_grad_()
    regions = contests.own_superpixels(size[4])(leaf)
    upstream = torch.randn_like(regions)
    return lambda: torch.autograd.grad(regions, leaf, upstream, retain_graph=True)


def own_attention(device, size, shaped, rule, dtype, aims: Aims = NO_AIMS) -> Iterator[Row]:
    def make(bind) -> Calls:
        functions, qkv = attention_case(device, size, shaped, rule, dtype)
        return with_graph(device, bind({"tmt": functions["tmt"]}, qkv)["tmt"])

    title = attention_title(size, shaped, rule, dtype)
    for step, bind in PASSES.items():
        yield Row("attention", title, step, functools.partial(make, bind), limits(aims.get(step, ())))


def own_deformable(device, size, dtype) -> Iterator[Row]:
    def make(bind) -> Calls:
        functions, given = deformable_case(device, size, dtype)
        return with_graph(device, bind({"tmt": functions["tmt"]}, given)["tmt"])

    for step, bind in PASSES.items():
        yield Row("deformable attention", deformable_title(size, dtype), step, functools.partial(make, bind))


def with_graph(device: Device, run: Call) -> Calls:
    return {"tmt": run, "graph": device.graph(run)}


# ---- against peers --------------------------------------------------------------------------------------------------


def eager(device: Device, sizes: Sizes) -> Iterator[Row]:
    yield from superpixels(device, sizes.superpixel, HALF, EAGER_SUPERPIXELS, SUPERPIXEL_GOALS)
    for shaped, rule in attention_kinds():
        yield from attention(device, sizes.attention, shaped, rule, HALF, EAGER_ATTENTION, ATTENTION_GOALS)
    yield from superpixels(device, sizes.superpixel, FULL, EAGER_SUPERPIXELS)
    yield from superpixels(device, sizes.small_superpixel, HALF, (*EAGER_SUPERPIXELS, "gather/scatter"))
    yield from attention(device, sizes.attention, False, "uncertain", FULL, EAGER_ATTENTION)
    for size in sizes.other_attentions:
        yield from attention(device, size, True, "uncertain", HALF, EAGER_ATTENTION)
    yield from deformable(device, sizes.deformable, FULL, ("tmt", "transformers"))


def compiled(device: Device, sizes: Sizes) -> Iterator[Row]:
    """Compiling takes long: at the goals' sizes only."""
    names = ("tmt", "compiled unfold", "compiled windows")
    yield from superpixels(device, sizes.superpixel, HALF, names, SUPERPIXEL_GOALS)
    for shaped, rule in attention_kinds():
        yield from attention(device, sizes.attention, shaped, rule, HALF, ("tmt", "flex"), ATTENTION_GOALS)
    yield from deformable(device, sizes.deformable, FULL, ("tmt", "compiled transformers"))


def superpixels(device, size, dtype, names, aims: Aims = NO_AIMS) -> Iterator[Row]:
    def make(bind) -> Calls:
        functions = contests.superpixel_functions(size[4])
        return bind({name: functions[name] for name in names}, (features(device, size, dtype),))

    title = superpixel_title(size, dtype)
    for step, bind in PASSES.items():
        yield Row("superpixel", title, step, functools.partial(make, bind), relative(aims.get(step, ())))


def attention(device, size, shaped, rule, dtype, names, aims: Aims = NO_AIMS) -> Iterator[Row]:
    def make(bind) -> Calls:
        functions, qkv = attention_case(device, size, shaped, rule, dtype)
        return bind({name: functions[name] for name in names}, qkv)

    title = attention_title(size, shaped, rule, dtype)
    for step, bind in PASSES.items():
        yield Row("attention", title, step, functools.partial(make, bind), relative(aims.get(step, ())))


def deformable(device, size, dtype, names) -> Iterator[Row]:
    def make(bind) -> Calls:
        functions, given = deformable_case(device, size, dtype)
        return bind({name: functions[name] for name in names}, given)

    for step, bind in PASSES.items():
        yield Row("deformable attention", deformable_title(size, dtype), step, functools.partial(make, bind))


def limits(aims: tuple[Goal, ...]) -> tuple[Goal, ...]:
    """The goals of ours alone."""
    return tuple(goal for goal in aims if goal.most is not None)


def relative(aims: tuple[Goal, ...]) -> tuple[Goal, ...]:
    """The goals against peers."""
    return tuple(goal for goal in aims if goal.most is None)


# ---- inputs ---------------------------------------------------------------------------------------------------------


def attention_kinds() -> Iterator[tuple[bool, str]]:
    """Whether masks have a shape, and the rule."""
    yield from ((shaped, rule) for shaped in (False, True) for rule in ("uncertain", "foreground"))


def features(device: Device, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(size[:4], device=device.name).to(dtype)


def attention_case(device, size, shaped, rule, dtype) -> tuple[dict[str, Function], list[Tensor]]:
    """The contestants under one mask, and query, key and value; mask logits in `dtype` too."""
    *qkv, mask, transferability = drawn(device.name, size, shaped)
    functions = contests.attention_functions(mask.to(dtype), transferability, rule)
    return functions, [x.to(dtype) for x in qkv]


@functools.lru_cache(maxsize=1)
def drawn(device: str, size: tuple[int, int], shaped: bool) -> tuple[Tensor, ...]:
    return tuple(x.to(device) for x in inputs.attention(*size, shaped))


def deformable_case(device, size, dtype) -> tuple[dict[str, Function], list[Tensor]]:
    """The contestants, and value in `dtype`, locations and weights in float32."""
    functions, (value, *others) = contests.deformable_case(*size)
    return functions, [value.to(device.name, dtype), *(x.to(device.name) for x in others)]


def superpixel_title(size: tuple[int, ...], dtype: torch.dtype) -> str:
    return f"{contests.superpixel_title(size)} {name(dtype)}"


def attention_title(size: tuple[int, int], shaped: bool, rule: str, dtype: torch.dtype) -> str:
    return f"attention B {size[0]} S {size[1]} {'blobs' if shaped else 'unstructured'}, {rule} {name(dtype)}"


def deformable_title(size: tuple[int, tuple[int, int]], dtype: torch.dtype) -> str:
    return f"{contests.deformable_title(*size)} {name(dtype)}"


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
