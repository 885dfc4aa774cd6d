"""Averages of maps that are the same every time."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def averaged(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Average maps (N, C, H, W) down to ``size``, (h, w), as adaptive pooling does.

    The gradient of PyTorch's adaptive pooling is not deterministic on a GPU, where
    ``randomness.deterministic=True`` makes it an error. Therefore windows that do not
    overlap are averaged by plain pooling, and others, which exist where ``size`` does
    not divide (H, W), one by one if PyTorch has to be deterministic.
    """
    height, width = size
    rows, columns = maps.shape[2:]
    if (height, width) == (1, 1):  # PyTorch takes the mean, which is deterministic
        return F.adaptive_avg_pool2d(maps, 1)
    if rows % height == 0 and columns % width == 0:
        return F.avg_pool2d(maps, (rows // height, columns // width))
    on_host = maps.device.type == 'cpu'
    if on_host or not torch.are_deterministic_algorithms_enabled():
        return F.adaptive_avg_pool2d(maps, (height, width))
    return _by_windows(_by_windows(maps, 2, height), 3, width)


def _by_windows(maps: Tensor, dim: int, count: int) -> Tensor:
    """Average one dimension over the ``count`` windows of adaptive pooling."""
    length = maps.shape[dim]
    windows = []
    for place in range(count):
        start, end = place * length // count, -(-(place + 1) * length // count)
        window = maps.narrow(dim, start, end - start)
        windows.append(window.mean(dim, keepdim=True))
    return torch.cat(windows, dim)
