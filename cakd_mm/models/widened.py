"""The widest floating-point numbers that a device has."""

import torch
from mmengine.device import get_device
from torch import Tensor

# Kinds of devices that refuse float64.
WITHOUT_FLOAT64 = {'mps'}


def widened(values: Tensor) -> Tensor:
    """Return float64, or float32 on a device that has nothing wider (Apple's GPUs)."""
    if values.device.type in WITHOUT_FLOAT64:
        return values.float()
    return values.double()


def widest_float() -> torch.dtype:
    """Return the type that :func:`widened` gives on the device of this machine."""
    lacks = torch.device(get_device()).type in WITHOUT_FLOAT64
    return torch.float32 if lacks else torch.float64
