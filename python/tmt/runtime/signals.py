"""SIGTERM and Ctrl-C as a request: the step is finished, the state saved, and the process leaves cleanly."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """A stage stopped on request, its state saved. `signum` is the signal; the exit code is 128 + signum."""

    def __init__(self, signum: int, where: str):
        super().__init__(f"stopped by {signal.Signals(signum).name} {where}; the same command with --resume goes on")
        self.signum = signum


class Stop:
    """Remembers the signal that asked this process to stop."""

    def __init__(self) -> None:
        self.signum = 0
        self._pid = os.getpid()

    def asked(self) -> bool:
        """Whether a signal asked this process to stop."""
        return self.signum > 0

    def interruption(self, where: str) -> Interrupted:
        """What to raise when this process, or another one that works with it, was asked to stop."""
        return Interrupted(self.signum or signal.SIGTERM, where)

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler. A second signal ends the process at once, without saving."""
        if os.getpid() != self._pid:
            _handle_in_worker(signum)
        elif self.signum:
            raise KeyboardInterrupt
        else:
            self.signum = signum


def _handle_in_worker(signum: int) -> None:
    """Data loading processes inherit the handler: Ctrl-C is the trainer's business, SIGTERM is the trainer's wish."""
    if signum == signal.SIGTERM:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)


@contextmanager
def listen() -> Iterator[Stop]:
    """Catch SIGTERM and SIGINT while inside. Only the main thread may do that; in another one, nothing is caught."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {signum: signal.signal(signum, stop.handle) for signum in SIGNALS}
    try:
        yield stop
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
