"""What this process may use of the machine, and with whom it ends."""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
# What Linux tells of memory: of the machine, and how names of files of a container's
# begin.
MEMINFO, OF_CONTAINER = '/proc/meminfo', '/sys/fs/cgroup/memory'
LIBC = ctypes.CDLL(None) if sys.platform == 'linux' else None


def cores() -> int:
    """Return how many cores this process may use, also in a container."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1
    with suppress(OSError, ValueError):  # no Linux, no container, or a limit of "max"
        quota, period = (
            Path('/sys/fs/cgroup/cpu.max').read_text(encoding='utf-8').split()
        )
        return max(1, min(usable, int(quota) // int(period)))
    return usable


def free_memory() -> int | None:
    """Return how many bytes this process could take, also in a container.

    What the system keeps of files counts as free, because it gives that back. None if
    the system does not tell, which Linux alone does.
    """
    if not os.path.exists(MEMINFO):
        return None
    free = 1024 * _fields(MEMINFO)['MemAvailable:']
    with suppress(OSError, ValueError):  # no container, or a limit of "max"
        limit, used = (
            int(Path(f'{OF_CONTAINER}.{name}').read_text(encoding='utf-8'))
            for name in ('max', 'current')
        )
        kept = _fields(f'{OF_CONTAINER}.stat')['inactive_file']
        free = min(free, limit - used + kept)
    return max(0, free)


def _fields(file: str) -> dict[str, int]:
    """Return the numbers of a file of the system, by the words before them."""
    lines = Path(file).read_text(encoding='utf-8').splitlines()
    return {name: int(number) for name, number, *_ in map(str.split, lines)}


def end_with(parent: int) -> None:
    """Let Linux kill this process when its parent, of this pid, ends in any way."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # The parent has ended before that.
            os._exit(1)


def end_with_torchrun() -> None:
    """End this process when the torchrun that has started it is killed.

    Otherwise it would train on, and nobody would end it when another rank fails. It
    does nothing for other launchers: Slurm and MPI end their processes by themselves,
    and a shell that has started ranks by hand may end before them.
    """
    if 'TORCHELASTIC_RUN_ID' in os.environ:
        end_with(os.getppid())
