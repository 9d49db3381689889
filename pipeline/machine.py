"""The machine this runs on."""

import os


def usable_cores() -> int:
    """Cores that this process may run on: a container or a job scheduler may allow fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
