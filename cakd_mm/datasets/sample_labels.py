"""The labels of a batch's samples, moved in one piece."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from mmpretrain.structures import DataSample
from torch import Tensor

from ..utils.transfer import send_together


def send_labels(
    samples: Iterable, device: torch.device, *others: Tensor
) -> list[Tensor]:
    """Move the labels of samples to a device, with one copy for all.

    Args:
        samples: ``DataSample`` or ``MultiTaskDataSample`` of each image. They keep what
            mmpretrain's preprocessor keeps on the host. Anything else is left alone.
        device: Where the labels shall be.
        *others: Tensors that are copied along with them.

    Returns:
        list[Tensor]: ``others`` on the device.
    """
    fields = [field for sample in samples for field in _labels(sample)]
    labels = [sample.get(name) for sample, name in fields]
    sent = iter(send_together([*labels, *others], device))
    for sample, name in fields:
        sample.set_field(next(sent), name)
    return list(sent)


def _labels(sample: Any) -> Iterator[tuple[BaseDataElement, str]]:
    """Yield where the tensors are that mmpretrain moves to the device."""
    if not isinstance(sample, BaseDataElement):
        return
    is_one = isinstance(sample, DataSample)  # otherwise it has one for each task
    for name in ('gt_label', 'gt_score') if is_one else sample.keys():
        value = sample.get(name)
        if isinstance(value, Tensor):
            yield sample, name
        yield from _labels(value)
