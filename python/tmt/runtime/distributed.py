"""The processes that train together: one, or those that `torchrun` started."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from tmt.errors import ConfigError
from tmt.runtime.lock import only_one
from tmt.runtime.signals import Stop

SETTLE_SECONDS = 0.5


@dataclass(frozen=True)
class World:
    """This process among all of them."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process prints and writes files."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over processes, of a tensor of any shape."""
        if self.size > 1:
            tensor = tensor.to(self.device, copy=True)
            dist.all_reduce(tensor)
        return tensor

    def any(self, here: bool) -> bool:
        """Whether it holds on any process."""
        return bool(self.sum(torch.tensor([float(here)])).item())

    def leave_if_asked(self, stop: Stop, where: str) -> None:
        """Raise Interrupted on every process where any was asked to stop; all processes must call it together."""
        if self.any(stop.asked()):
            raise stop.interruption(where)

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors (n, ...) of all processes, of the same shape, one after the other (size * n, ...).

        The gradient reaches this process's part, times the number of processes: the mean over processes, which DDP
        takes, then is the gradient of the whole.
        """
        if self.size == 1:
            return tensor
        own = tensor.detach().contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own)
        if tensor.requires_grad:
            parts[self.rank] = own + self.size * (tensor - own)  # the same numbers: what is added is 0
        return torch.cat(parts)

    def barrier(self) -> None:
        """Wait for all processes."""
        self.sum(torch.zeros(1))

    @contextmanager
    def only_one(self, folder: Path) -> Iterator[None]:
        """Hold an output folder for all processes; all must call it together. Raises ConfigError, as `lock.only_one`.

        The main process holds it and writes; when it may not, no other one goes on.
        """
        with ExitStack() as stack:
            refusal = self._hold(folder, stack) if self.main else None
            if self.any(refusal is not None):
                raise refusal or ConfigError(f"out: {folder} cannot be used; the first process says why")
            yield

    def _hold(self, folder: Path, stack: ExitStack) -> ConfigError | None:
        try:
            stack.enter_context(only_one(folder))
        except ConfigError as error:
            return error
        return None

    def share_buffers(self, module: nn.Module) -> None:
        """Give all processes the main one's buffers: batch norms gather statistics of their own share of the images."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, with gradients averaged over processes where there are several."""
        if self.size == 1:
            return module
        return DistributedDataParallel(module, device_ids=[self.device] if self.device.type == "cuda" else None)

    def say(self, text: str) -> None:
        """Print from the main process only, above any progress bar."""
        if self.main:
            tqdm.write(text)
            sys.stdout.flush()


@contextmanager
def join(device: str) -> Iterator[World]:
    """The world of this process; joins the others where torchrun's variables are set, and leaves them at the end.

    device: `auto`, `cpu` or `cuda`. Raises ConfigError for `cuda` without a GPU.
    """
    kind = _device_kind(device)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    place = torch.device("cuda", torch.cuda.current_device()) if kind == "cuda" else torch.device("cpu")
    if size == 1:
        yield World(place)
        return
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield World(place, dist.get_rank(), dist.get_world_size())
    finally:
        # gloo's threads need the interpreter's lock to drop the last operations; the group's destructor holds it while
        # it waits for those threads. Sleeping gives it to them; without, some runs never end.
        time.sleep(SETTLE_SECONDS)
        dist.destroy_process_group()


def _device_kind(device: str) -> str:
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda asked for, but torch sees no GPU; install torch with CUDA or use --device cpu")
    if device != "auto":
        return device
    if not torch.cuda.is_available() and torch.backends.mps.is_available():
        tqdm.write("device: there are no kernels for MPS (Apple's GPU): training on the CPU")
    return "cuda" if torch.cuda.is_available() else "cpu"


def share(batch_size: int, world: World, name: str) -> int:
    """Images per process of a global batch; raises ConfigError when it cannot be split evenly."""
    if batch_size % world.size:
        raise ConfigError(f"{name}: must be a multiple of the {world.size} processes, got {batch_size}")
    return batch_size // world.size
