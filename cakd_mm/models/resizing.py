"""The rule by which a map comes to the size of another."""

import torch.nn.functional as F
from torch import Tensor

from .averages import averaged


def resize(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a map (N, C, H, W) to ``size``: average down, interpolate up.

    A map that is larger, or as large, in both directions is averaged. Any other is
    interpolated bilinearly. A map of that size comes back as it is.
    """
    here = tuple(feature.shape[2:])
    if here == size:
        return feature
    if here[0] >= size[0] and here[1] >= size[1]:
        return averaged(feature, size)
    return F.interpolate(feature, size, mode='bilinear', align_corners=False)
