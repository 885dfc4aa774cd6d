"""Checks labels on the host, where a wrong one can still be named."""

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

    On a GPU such a label ends in a device-side assert without a name, or in a
    silently wrong loss. Checked before the batch is moved, in training,
    validation and test. Put it into ``default_hooks``.

    Raises:
        ValueError: naming the label, its place and the number of classes.
    """

    priority = 'VERY_HIGH'

    def _before_iter(self, runner, batch_idx, data_batch=None, mode='train') -> None:
        num_classes = _num_classes(runner.model)
        samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else []
        if num_classes is None or not isinstance(samples, (list, tuple, LabelBatch)):
            return
        if isinstance(samples, LabelBatch) and _all_fit(samples.gt_label, num_classes):
            return
        labels = {i: label for i, s in enumerate(samples) if _has(label := _label(s))}
        if not labels:
            return
        flat = torch.cat([label.reshape(-1) for label in labels.values()])
        low, high = int(flat.min()), int(flat.max())
        if low < 0 or high >= num_classes:
            wrong = low if low < 0 else high
            index = next(i for i, label in labels.items() if (label == wrong).any())
            where = samples[index].get('img_path', f'sample {index} of the batch')
            raise ValueError(
                describe(
                    f'{mode}_dataloader.dataset',
                    f'label {wrong}',
                    f'{where} has it, but the head scores {num_classes} classes '
                    f'(labels 0 to {num_classes - 1}).',
                    'Set head.num_classes (of teacher and student) to the number '
                    'of classes, or correct the annotation.',
                )
            )


def _all_fit(labels: Tensor, num_classes: int) -> bool:
    low, high = labels.aminmax()
    return bool(low >= 0 and high < num_classes)


def _label(sample):
    return sample.get('gt_label') if isinstance(sample, BaseDataElement) else None


def _has(label) -> bool:
    """Whether it is a tensor with something in it that the host can read freely."""
    return isinstance(label, Tensor) and label.numel() > 0 and not label.is_cuda


def _num_classes(model) -> int | None:
    model = unwrap(model)
    student = getattr(model, 'student', model)
    return getattr(getattr(student, 'head', None), 'num_classes', None)
