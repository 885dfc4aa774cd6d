"""Checks labels on the host, where a wrong label can still be named."""

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.structures import BaseDataElement
from torch import Tensor

from ...datasets.label_batch import LabelBatch
from ...utils.errors import describe
from ...utils.model import unwrap


@HOOKS.register_module()
class LabelRangeHook(Hook):
    """Refuse a batch whose labels do not fit the classifier.

    On a GPU such a label ends in a device-side assert that does not name it, or in a
    wrong loss. Therefore the labels are checked before the batch is moved, in
    training, validation and test. Put it into ``default_hooks``.

    Raises:
        ValueError: naming the label, its place and the number of classes.
    """

    priority = 'VERY_HIGH'

    def _before_iter(self, runner, batch_idx, data_batch=None, mode='train') -> None:
        model = unwrap(runner.model)
        head = getattr(getattr(model, 'student', model), 'head', None)
        num_classes = getattr(head, 'num_classes', None)
        samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else ()
        if num_classes is None or not isinstance(samples, (list, tuple, LabelBatch)):
            return
        if isinstance(samples, LabelBatch):
            flat = samples.gt_label
        else:
            flat = torch.cat([*map(_labels, samples), torch.zeros(0, dtype=torch.int)])
        if not flat.numel():
            return
        low, high = map(int, flat.aminmax())
        if low < 0 or high >= num_classes:
            wrong = low if low < 0 else high
            index, sample = next(
                (i, sample)
                for i, sample in enumerate(samples)
                if wrong in _labels(sample)
            )
            where = sample.get('img_path', f'sample {index} of the batch')
            problem = (
                f'{where} has it, but the head scores {num_classes} classes (labels 0 '
                f'to {num_classes - 1}).'
            )
            remedy = (
                'Set head.num_classes (of teacher and student) to the number of '
                'classes, or correct the annotation.'
            )
            key = f'{mode}_dataloader.dataset'
            raise ValueError(describe(key, f'label {wrong}', problem, remedy))


def _labels(sample) -> Tensor:
    """Return the labels of a sample that the host can read without waiting, (N,)."""
    label = sample.get('gt_label') if isinstance(sample, BaseDataElement) else None
    if not isinstance(label, Tensor) or label.is_cuda:
        return torch.zeros(0, dtype=torch.int)
    return label.reshape(-1)
