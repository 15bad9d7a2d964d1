"""What rows are measured with: a clock, a count of memory, and CUDA graphs."""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from . import memory, timing

Call = Callable[[], object]


@dataclass(frozen=True)
class Device:
    """A GPU, or what takes its place in tests."""

    name: str
    clock: Callable[[Call], float]  # milliseconds
    extra: Callable[[Call], float]  # MiB
    graph: Callable[[Call], Call]  # the same call, captured when it is first made
    stream: Callable[[], contextlib.AbstractContextManager]  # that graphs are captured on


@functools.cache
def side_stream() -> torch.cuda.Stream:
    return torch.cuda.Stream()


@contextlib.contextmanager
def on_side_stream():
    """Work that a graph depends on: a backward runs on its forward's stream, which must be the captured one."""
    side_stream().wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream()):
        yield
    torch.cuda.current_stream().wait_stream(side_stream())


def graphed(run: Call) -> Call:
    """`run` as a CUDA graph."""
    graph = functools.cache(lambda: captured(run))
    return lambda: graph().replay()


def captured(run: Call) -> torch.cuda.CUDAGraph:
    """The graph of a call; the calls before it make what is made once."""
    with on_side_stream():
        for _ in range(3):
            run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side_stream()):
        run()
    return graph


GPU = Device("cuda", timing.on_gpu, memory.extra_on_gpu, graphed, on_side_stream)
