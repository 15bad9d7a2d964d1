"""What to do when a stage runs out of memory or of room on the disk."""

from collections.abc import Iterator
from contextlib import contextmanager

from tmt.errors import TMTError, TrainingError
from tmt.runtime.limits import SHARED, lack_of_memory, lack_of_room
from tmt.runtime.signals import Interrupted
from tmt.settings import Config, Stage
from tmt.training.resuming import group_of


@contextmanager
def explain_shortage(config: Config, stage: Stage) -> Iterator[None]:
    """Raises TrainingError, with what to change, where memory or room on the disk does not suffice for a stage."""
    try:
        yield
    except (TMTError, Interrupted):
        raise
    except Exception as error:  # each library has its own
        if memory := lack_of_memory(error):
            raise TrainingError(f"{stage}: {memory}; {_mend(config, stage, memory)}") from error
        if room := lack_of_room(error):
            mend = "make room; what was saved before is whole, and the same command with --resume goes on"
            raise TrainingError(f"{stage}: {room}; {mend}") from error
        raise


def _mend(config: Config, stage: Stage, memory: str) -> str:
    """Which settings lower the memory that a stage takes, and what they are."""
    if memory == SHARED:
        return f"lower data.workers (now {config.data.workers}) and --resume, or enlarge /dev/shm"
    group = group_of(stage)
    batch, crop = getattr(config, group).batch_size, " x ".join(map(str, config.augment.crop))
    window = "" if config.evaluation.window else ", or set evaluation.window where it happens in evaluation"
    return (
        f"with another --out, lower {group}.batch_size (now {batch}) or augment.crop (now {crop}){window}; or --resume "
        "where there is more memory"
    )
