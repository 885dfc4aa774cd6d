"""Does half precision make this machine faster?"""

import time
from collections.abc import Callable
from functools import lru_cache, partial

import torch
import torch.nn.functional as F


@lru_cache
def speedup(dtype: torch.dtype, device: torch.device) -> float:
    """Return how many times as fast a convolution is in ``dtype`` as in float32.

    It is measured, because it depends on the processor: a CPU without instructions for
    bfloat16 computes it at a fraction of float32's speed. The layer has an ordinary
    size, the best of eight calls counts, and all of it takes a tenth of a second.
    """
    images = torch.ones(32, 64, 16, 16, device=device)
    weight = torch.ones(64, 64, 3, 3, device=device)
    best = []
    for kind in (torch.float32, dtype):
        x, w = (t.to(kind, memory_format=torch.channels_last) for t in (images, weight))
        best.append(min(_seconds(partial(F.conv2d, x, w)) for _ in range(8)))
    return best[0] / best[1]


def _seconds(run: Callable[[], torch.Tensor]) -> float:
    start = time.perf_counter()
    run().flatten()[0].item()  # the result is waited for, on a GPU too
    return time.perf_counter() - start
