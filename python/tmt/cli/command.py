"""How every entry point ends: exit code 0, or one line on stderr and a code that says why."""

import io
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress

from tmt.errors import STATE_ERROR, USER_ERROR, StateError, TMTError
from tmt.runtime.limits import lack_of_memory, lack_of_room
from tmt.runtime.signals import Interrupted
from tmt.runtime.waiting import wait_briefly


def command(
    action: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None, less_memory: str = "use a smaller model"
) -> int:
    """Run an entry point on its arguments (those of the process where None) and return its exit code.

    0: done, unless the action returns another code. 2: an argument, file or setting that the user can mend, or a lack
    of memory or of room on the disk, named on one line; `less_memory` says what to do about the former. 3: what an
    interrupted stage left is of no use. 128 + n: stopped by signal n.
    """
    wait_briefly()
    _print_anything()
    warnings.formatwarning = _one_line
    try:
        return action(sys.argv[1:] if argv is None else argv) or 0
    except TMTError as error:
        return _fail(str(error), STATE_ERROR if isinstance(error, StateError) else USER_ERROR)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signum
    except Exception as error:  # each library has its own for a lack of memory or room
        message = _message(error, less_memory)
        if message is None:
            raise
        return _fail(message)
    except KeyboardInterrupt:
        return 130


def _print_anything() -> None:
    """What stdout has no characters for is escaped, as on stderr: Windows writes to files in its code page."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _one_line(message: Warning | str, category: type[Warning], *place: object) -> str:
    """A warning as the last line of what Python shows; of those that are not ours with their kind."""
    kind = "" if category is UserWarning else f"{category.__name__}: "
    return f"warning: {kind}{one_line(str(message))}\n"


def _message(error: Exception, less_memory: str) -> str | None:
    """What the user can do about an error that is not one of ours; None where that is unknown."""
    if isinstance(error, ImportError) and str(error).startswith("tmt_ext:"):
        return str(error)
    if memory := lack_of_memory(error):
        return f"{memory}; {less_memory}"
    if room := lack_of_room(error):
        return f"{room}; make room or choose another folder"
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{error.filename}: {error.strerror}; make it readable and writable, or choose another folder"
    return None


def _fail(message: str, code: int = USER_ERROR) -> int:
    with suppress(OSError):  # where it is written to may be the disk that is full
        print(f"error: {one_line(message)}", file=sys.stderr)
    return code


def one_line(message: str) -> str:
    """A message without line breaks; of an error from a data loading process, without that process's traceback."""
    if "Original Traceback" in message:
        message = message.strip().splitlines()[-1].split(": ", 1)[-1]
    return " ".join(message.split())
