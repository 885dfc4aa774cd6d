"""Copies between host and device, for which the host waits as seldom as it can."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, and do not wait until it is there.

    It is copied from pinned memory, where the device has such, because a device reads
    other memory only while the host waits.
    """
    # Apple's GPUs may read memory of the host after it has been freed, without an error
    # (https://github.com/pytorch/pytorch/issues/189690), so there the host waits.
    if tensor.device.type != 'cpu' or device.type in ('cpu', 'mps'):
        return tensor.to(device)
    if _has_pinned_memory() and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@lru_cache
def _has_pinned_memory() -> bool:
    """Return whether PyTorch pins memory for the accelerator of this machine."""
    try:
        torch.zeros(1).pin_memory()
    except RuntimeError:  # also of those devices that have not implemented it
        return False
    return True


def send_together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return tensors on a device, with one copy for all that come from one device.

    Args:
        tensors: Of any types, shapes and devices.
        device: Where all shall be; those that are there are returned as they are.
    """
    found = list(tensors)
    for source in {x.device for x in found} - {device}:
        places = [i for i, x in enumerate(found) if x.device == source]
        copies = _send_packed([found[i] for i in places], device)
        for place, copy in zip(places, copies, strict=True):
            found[place] = copy
    return found


def _send_packed(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    """Return the copies of tensors of one device, which are parts of one tensor."""
    # The widest types come first, so that each number lies at a multiple of its width.
    types = sorted({x.dtype for x in tensors}, key=lambda x: x.itemsize, reverse=True)
    of_types = [[x for x in tensors if x.dtype == kind] for kind in types]
    rows = [torch.cat([x.reshape(-1) for x in some]) for some in of_types]
    packed = send(torch.cat([row.view(torch.uint8) for row in rows]), device)
    parts = {}
    sizes = [row.numel() * row.element_size() for row in rows]
    for kind, some, part in zip(types, of_types, packed.split(sizes), strict=True):
        copies = part.view(kind).split([x.numel() for x in some])
        parts[kind] = iter([x.view(y.shape) for x, y in zip(copies, some, strict=True)])
    return [next(parts[x.dtype]) for x in tensors]
