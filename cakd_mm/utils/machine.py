"""What this process may use of the machine, and what the processor is."""

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


def cpuinfo() -> dict[str, str]:
    """Return what Linux says of the first processor; nothing elsewhere."""
    info = Path('/proc/cpuinfo')
    if not info.is_file():
        return {}
    first = info.read_text().partition('\n\n')[0]
    lines = (line.partition(':') for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}
