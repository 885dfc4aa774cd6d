"""What this process may use of the machine."""

import os
from contextlib import suppress
from pathlib import Path


def cores() -> int:
    """Return how many cores this process may use, in a container as well."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1
    with suppress(OSError, ValueError):  # no Linux, no container or no limit ("max")
        quota, period = Path('/sys/fs/cgroup/cpu.max').read_text().split()
        return max(1, min(usable, int(quota) // int(period)))
    return usable
