"""Checks labels on the host, where a wrong one can still be named."""

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from ...utils.errors import describe


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
        is_dict = isinstance(data_batch, dict)
        samples = data_batch.get('data_samples') if is_dict else None
        if num_classes is None or not samples:
            return
        labels = [sample.get('gt_label') for sample in samples]
        if any(label is None for label in labels):
            return
        flat = torch.cat([label.reshape(-1) for label in labels])
        if flat.is_cuda or not flat.numel():
            return
        low, high = int(flat.min()), int(flat.max())
        if low < 0 or high >= num_classes:
            wrong = low if low < 0 else high
            index = next(i for i, label in enumerate(labels) if (label == wrong).any())
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


def _num_classes(model) -> int | None:
    model = model.module if is_model_wrapper(model) else model
    student = getattr(model, 'student', model)
    return getattr(getattr(student, 'head', None), 'num_classes', None)
