"""The widest floating-point numbers that a device has."""

from torch import Tensor

# Kinds of devices that refuse float64.
WITHOUT_FLOAT64 = {'mps'}


def widened(values: Tensor) -> Tensor:
    """Return float64, or float32 on a device that has nothing wider (Apple's GPUs)."""
    if values.device.type in WITHOUT_FLOAT64:
        return values.float()
    return values.double()
