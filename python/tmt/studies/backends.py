"""Where attempts at jobs run: processes on this machine, or tasks on a Ray cluster. Both run the same commands."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tmt.errors import ConfigError, reason_of
from tmt.runtime.lock import try_lock
from tmt.studies.process import Commands, JobProcess

POLL_SECONDS = 0.1
BUSY = -1000
"""What a Ray task returns where a process of an earlier call still works in the job's folder."""


class Handle(Protocol):
    """An attempt at work."""

    def poll(self) -> int | None:
        """Its exit code; None before its end. Raises OSError where a command of it cannot be started."""

    def stop(self) -> None:
        """Ask it to save what it has and end."""

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        ...


class Backend(Protocol):
    """A place to run attempts."""

    slots: int
    """Attempts at a time."""

    def start(self, folder: Path, commands: Commands, environment: Mapping[str, str], lock: Path) -> Handle | None:
        """Start an attempt; None where a process of an earlier call still works in the folder."""

    def close(self) -> None:
        """Leave nothing behind."""


@dataclass
class Local:
    """Processes on this machine; where there are GPUs, they share them in turn."""

    slots: int
    gpus: tuple[str, ...] = ()
    _working: dict[int, JobProcess] = field(default_factory=dict)

    def start(self, folder: Path, commands: Commands, environment: Mapping[str, str], lock: Path) -> Handle | None:
        self._working = {slot: process for slot, process in self._working.items() if process.lock >= 0}
        descriptor = try_lock(lock)
        if descriptor is None:
            return None
        slot = next(i for i in range(self.slots + 1) if i not in self._working)
        if self.gpus:
            environment = {**environment, "CUDA_VISIBLE_DEVICES": self.gpus[slot % len(self.gpus)]}
        self._working[slot] = process = JobProcess(folder, commands, environment, descriptor)
        return _Locked(process)

    def close(self) -> None:
        for process in self._working.values():
            process.kill()


@dataclass
class _Locked:
    """A process, whose lock this process gives up with its end."""

    process: JobProcess

    def poll(self) -> int | None:
        try:
            code = self.process.poll()
        except OSError:  # its next command could not be started
            self._unlock()
            raise
        if code is not None:
            self._unlock()
        return code

    def stop(self) -> None:
        self.process.stop()

    def wait(self) -> int:
        code = self.process.wait()
        self._unlock()
        return code

    def _unlock(self) -> None:
        if self.process.lock >= 0:
            os.close(self.process.lock)
            self.process.lock = -1


def visible_gpus() -> tuple[str, ...]:
    """The GPUs of this machine that a job may be given, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return tuple(name for name in given.split(",") if name)
    import torch

    return tuple(str(i) for i in range(torch.cuda.device_count()))


class RayCluster:
    """Tasks on a Ray cluster, each with CPUs and GPUs or a fraction of one. All its machines see the study's folder."""

    def __init__(self, slots: int | None, address: str | None, cpus: float, gpus: float):
        try:
            import ray  # pyright: ignore[reportMissingImports]  # the extra sweep
        except ImportError as error:
            raise ConfigError(
                "backend: ray is not installed; pip install 'transferable-mask-transformer[sweep]', or use "
                "--backend local"
            ) from error
        self._ray = ray
        local = {"num_cpus": max(1, round(slots * cpus))} if address is None and slots else {}
        try:
            ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, include_dashboard=False, **local)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"address: no Ray cluster answers at {address} ({reason_of(error)}); start one with "
                "`ray start --head`, or leave --address out"
            ) from error
        self.slots = slots or _room(ray.cluster_resources(), cpus, gpus)
        self._task = ray.remote(run_commands).options(num_cpus=cpus, num_gpus=gpus, max_retries=0)

    def start(self, folder: Path, commands: Commands, environment: Mapping[str, str], lock: Path) -> Handle:
        return _RayHandle(self._ray, self._task.remote(str(folder), commands, dict(environment), str(lock)))

    def close(self) -> None:
        self._ray.shutdown()


def _room(resources: Mapping[str, float], cpus: float, gpus: float) -> int:
    """Tasks that a cluster has room for at a time."""
    rooms = [resources.get(name, 0) / share for name, share in (("CPU", cpus), ("GPU", gpus)) if share]
    return max(1, int(min(rooms, default=1)))


@dataclass
class _RayHandle:
    ray: Any
    """The package, which may not be installed."""
    task: Any

    def poll(self) -> int | None:
        ready, _ = self.ray.wait([self.task], timeout=0)
        return self.wait() if ready else None

    def stop(self) -> None:
        self.ray.cancel(self.task)

    def wait(self) -> int:
        try:
            return self.ray.get(self.task)
        except self.ray.exceptions.TaskCancelledError:
            return -15
        except self.ray.exceptions.RayError:  # the worker itself died: memory, or its machine
            return -9


def run_commands(folder: str, commands: Commands, environment: Mapping[str, str], lock: str) -> int:
    """The whole attempt in one call, for a worker; cancelled, it asks the commands to stop and waits for them."""
    descriptor = try_lock(Path(lock))
    if descriptor is None:
        return BUSY
    process = JobProcess(Path(folder), commands, environment, descriptor)
    try:
        while (code := process.poll()) is None:
            time.sleep(POLL_SECONDS)
        return code
    except KeyboardInterrupt:
        process.stop()
        return process.wait()
    finally:
        os.close(descriptor)
