"""The part of the machine that this process may use."""

import os
from contextlib import suppress
from pathlib import Path


def cores() -> int:
    """Return how many cores this process may use, also in a container."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1
    with suppress(OSError, ValueError):  # no Linux, no container, or a limit of "max"
        quota, period = (
            Path('/sys/fs/cgroup/cpu.max').read_text(encoding='utf-8').split()
        )
        return max(1, min(usable, int(quota) // int(period)))
    return usable
