"""How many processors there are to share work among."""

import os


def processors() -> int:
    """Those that this process may use, where the system says so (Linux), else all; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return allowed or 1
