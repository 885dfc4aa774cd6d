"""Does half precision make this machine faster?"""

import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...tasks import task_of
from ...utils.random_states import random_states_kept
from .tapped import TappedNet, copy_in, floats_of

# Half precision that is less than so many times as fast as float32 does not pay.
PAYS = 1.2
# The layer that is measured: images, channels, height and width. A GPU gets a larger
# one, because it would otherwise wait for the host longer than it computes.
ON_HOST, ON_GPU = (32, 64, 16, 16), (256, 256, 28, 28)
# A net runs on as many images as it takes for so many seconds, in so many rounds; it
# is first tried with a few.
ENOUGH, ROUNDS, FEW = 0.2, 3, 2


@lru_cache
def speedup(dtype: torch.dtype, device: torch.device) -> float:
    """Return how many times as fast a convolution is in ``dtype`` as in float32.

    It is measured, because it depends on the processor: a CPU without instructions for
    bfloat16 computes it at a fraction of float32's speed. The layer has an ordinary
    size, the best of eight calls counts, and all of it takes a tenth of a second.
    """
    plain, half = convolution_seconds(dtype, device)
    return plain / half


def convolution_seconds(
    dtype: torch.dtype, device: torch.device
) -> tuple[float, float]:
    """Return how long a convolution takes in float32 and in ``dtype``, in seconds."""
    shape = ON_GPU if device.type == 'cuda' else ON_HOST
    channels = shape[1]
    images = torch.ones(shape, device=device)
    weight = torch.ones(channels, channels, 3, 3, device=device)
    best = []
    for kind in (torch.float32, dtype):
        x, w = (t.to(kind, memory_format=torch.channels_last) for t in (images, weight))
        best.append(min(_seconds(partial(F.conv2d, x, w)) for _ in range(8)))
    return best[0], best[1]


def seconds_per_image(
    net: nn.Module, image: Tensor, most: int, trains: bool, *dtypes: torch.dtype
) -> list[float]:
    """Return how long a copy of a net takes for an image, in each of some types.

    All of it takes a second or two, and leaves net and random generators as they are.

    Args:
        net (nn.Module): A classifier; ``mode='tensor'`` runs it.
        image (Tensor): (C, H, W), any values, in float32 and on the net's device.
        most (int): How many images there may be in a batch, 2 at least.
        trains (bool): Whether it goes backward, too, and computes in half precision by
            autocast, as training does. Otherwise its weights are of the type.
        *dtypes (torch.dtype): What to compute in.

    Returns:
        list[float]: Seconds, of the fastest of three rounds.
    """
    make: Any = _TrainedNet if trains else _FrozenNet
    with random_states_kept([image]):
        runs: list[Any] = [make(net, dtype) for dtype in dtypes]
        few = image.expand(FEW, *image.shape).contiguous()
        runs[0](few)
        once = max(_seconds(partial(runs[0], few)), 1e-6)
        count = max(FEW, min(most, int(FEW * ENOUGH / once)))
        batch = image.expand(count, *image.shape)
        batch = batch.contiguous(memory_format=torch.channels_last)
        best = [float('inf')] * len(runs)
        # The first round warms up, unless it takes too long to be done in vain.
        is_slow = once > ENOUGH
        for turn in range(1 if is_slow else 1 + ROUNDS):
            for index, run in enumerate(runs):
                seconds = _seconds(partial(run, batch))
                if turn or is_slow:
                    best[index] = min(best[index], seconds)
    return [seconds / count for seconds in best]


class _FrozenNet:
    """A copy of a net that goes forward."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        self.net = TappedNet(copy_in(net, dtype), (), dtype).eval()
        self.net.to(memory_format=torch.channels_last)
        self.dtype = dtype

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        return floats_of(self.net(images))[0]


class _TrainedNet:
    """A copy of a net that goes forward and backward."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        self.net = copy_in(net, torch.float32).train()
        self.net.to(memory_format=torch.channels_last)
        self.dtype = dtype

    @torch.enable_grad()
    def __call__(self, images: Tensor) -> Tensor:
        is_half = self.dtype != torch.float32
        kind = self.dtype if is_half else None
        with torch.autocast(images.device.type, kind, enabled=is_half):
            outputs = floats_of(task_of(self.net).outputs(self.net, images))
        total = torch.stack([one.float().mean() for one in outputs]).sum()
        total.backward()
        return total.detach()


def _seconds(run: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    run().flatten()[0].item()  # the result is waited for, on a GPU too
    return time.perf_counter() - start
