"""How long functions take, one beside the other."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

# Each is called so often at least, and no more once they have taken so long together.
LEAST, SECONDS = 5, 3.0


def medians(calls: Mapping[str, Callable[[], Any]]) -> tuple[dict[str, float], int]:
    """Return the median time of each function, and how often it was measured.

    They are called in turn, so that other work of the machine slows all of them.

    Args:
        calls (dict): Functions by name. Each is called twice before.

    Returns:
        tuple: Milliseconds by name, and a number of calls.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(2):
        for call in calls.values():
            call()
    rounds, start = 0, time.perf_counter()
    while rounds < LEAST or time.perf_counter() - start < SECONDS:
        for name, call in calls.items():
            before = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - before)
        rounds += 1
    return {k: 1e3 * statistics.median(v) for k, v in times.items()}, rounds
