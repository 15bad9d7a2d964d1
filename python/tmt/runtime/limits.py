"""What a machine has run out of, memory or room on a disk, found in the errors of whichever library met it."""

import errno
import os
import re

NO_MEMORY = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "unable to allocate"),
    *("memoryerror", "bad_alloc", "memory allocation", "alloc_failed", "killed by signal: killed"),
)
NO_SPACE = (
    *("no space left on device", "file too large", "quota exceeded"),
    *("file write failed", "pytorchstreamwriter failed", "errno 28", "errno 27"),
)
NO_SHARED_MEMORY = ("out of shared memory", "shared memory(shm)", "shared memory object", "killed by signal: bus error")
SHARED = "out of memory that processes share"
"""The lack of what processes that load images hand them over in."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
AMOUNT = re.compile(r"allocate ([\d.]+ (?:bytes|[KMGTPE]iB))")
SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust name the system's errors."""


def system_error(error: BaseException | None) -> OSError | None:
    """The system's error behind another one; None where there is none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error
        if found := SYSTEM_ERROR.search(str(error)):
            return OSError(int(found[1]), os.strerror(int(found[1])))
        error = error.__cause__ or error.__context__
    return None


def lack_of_memory(error: Exception) -> str | None:
    """`out of memory`, and how much was asked for, or SHARED; None for any other error."""
    text = f"{type(error).__name__}: {error} {error.__cause__ or ''}"
    if _has(text, NO_SHARED_MEMORY):
        return SHARED
    if not isinstance(error, MemoryError) and not _has(text, NO_MEMORY):
        return None
    amount = AMOUNT.search(text)
    return f"out of memory ({amount[1]} more were asked for)" if amount else "out of memory"


def lack_of_room(error: Exception) -> str | None:
    """The file that could not be written and the system's reason; None for any other error."""
    found = system_error(error)
    if found is None or found.errno not in NO_ROOM:
        return None
    return f"{found.filename}: {found.strerror}" if found.filename else str(found.strerror)


def _has(text: str, words: tuple[str, ...]) -> bool:
    return any(word in text.lower() for word in words)
