"""How every entry point ends: exit code 0, or one line on stderr and a code that says why."""

import sys
from collections.abc import Callable, Sequence

from tmt.errors import TMTError
from tmt.runtime.signals import Interrupted

USER_ERROR = 2


def command(action: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None) -> int:
    """Run an entry point on its arguments (those of the process where None) and return its exit code.

    0: done, unless the action returns another code. 2: an argument, file or setting that the user can mend, named on
    one line. 128 + n: stopped by signal n.
    """
    try:
        return action(sys.argv[1:] if argv is None else argv) or 0
    except TMTError as error:
        return _fail(str(error))
    except ImportError as error:
        if not str(error).startswith("tmt_ext:"):
            raise
        return _fail(str(error))
    except OSError as error:
        if error.errno is None or error.filename is None:
            raise
        return _fail(f"{error.filename}: {error.strerror}; make room or choose another folder")
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signum
    except KeyboardInterrupt:
        return 130


def _fail(message: str) -> int:
    print(f"error: {one_line(message)}", file=sys.stderr)
    return USER_ERROR


def one_line(message: str) -> str:
    """A message without line breaks; of an error from a data loading process, without that process's traceback."""
    if "Original Traceback" in message:
        message = message.strip().splitlines()[-1].split(": ", 1)[-1]
    return " ".join(message.split())
