"""Checks labels on the host, where a wrong label can still be named."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ...datasets.label_batch import LabelBatch
from ...models.losses.base import losses_of
from ...models.taps import classes_key, classes_of
from ...tasks import task_of
from ...utils.errors import describe
from ...utils.model import unwrap


@HOOKS.register_module()
class LabelRangeHook(Hook):
    """Refuse a batch whose labels do not fit the classifier.

    On a GPU such a label ends in a device-side assert that does not name it, or in a
    wrong loss. Therefore the labels are checked before the batch is moved, in
    training, validation and test. Put it into ``default_hooks``.

    Nor may an image have several labels, or an empty list of them, where a loss of the
    distillation takes one class per image (``one_class`` of :class:`DistillLoss`).

    Raises:
        ValueError: naming the label, its place and the number of classes, or the loss.
    """

    priority = 'VERY_HIGH'
    # The class of a loss that takes one class per image; None if there is none.
    _of_one_class: str | None = None
    # The net whose classes are known, because an unknown net has to be run for them.
    _net: nn.Module | None = None
    _classes: int | None = None

    def before_train(self, runner) -> None:
        """Look for losses that take one class per image."""
        names = (x.class_name for x in losses_of(runner.model) if x.one_class)
        self._of_one_class = next(names, None)

    def _before_iter(self, runner, batch_idx, data_batch=None, mode='train') -> None:
        model = unwrap(runner.model)
        net = getattr(model, 'student', model)
        if net is not self._net:
            self._net, self._classes = net, classes_of(net)
        num_classes, task = self._classes, task_of(net)
        samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else ()
        if num_classes is None or not isinstance(samples, (list, tuple, LabelBatch)):
            return
        if mode == 'train' and self._of_one_class is not None:
            _check_single(samples, self._of_one_class)
        each = [samples] if isinstance(samples, LabelBatch) else samples
        found = (task.labels(sample, net) for sample in each)
        ends = [
            labels.aminmax() for labels in found if labels is not None and len(labels)
        ]
        if not ends:
            return
        low, high = min(int(x.min) for x in ends), max(int(x.max) for x in ends)
        if low < 0 or high >= num_classes:
            wrong = low if low < 0 else high
            labels = ((i, x, task.labels(x, net)) for i, x in enumerate(samples))
            index, sample = next(
                (i, x) for i, x, own in labels if own is not None and wrong in own
            )
            problem = f'{_place(sample, index)} has it, but the head scores '
            problem += f'{num_classes} classes (labels 0 to {num_classes - 1}).'
            place = 'model' if net is model else 'model.architecture'
            remedy = f'Set {classes_key(net, place)}, and that of a teacher, to the '
            remedy += 'number of classes, or correct the annotation.'
            key = f'{mode}_dataloader.dataset'
            raise ValueError(describe(key, f'label {wrong}', problem, remedy))


def _check_single(samples, loss: str) -> None:
    """Raise ValueError if a sample has several labels, or an empty list of them.

    Those of a ``LabelBatch`` have one each. A sample without the field is unlabelled,
    and other checks say so.
    """
    if isinstance(samples, LabelBatch):
        return
    for index, sample in enumerate(samples):
        labels = sample.get('gt_label') if isinstance(sample, BaseDataElement) else None
        if isinstance(labels, Tensor) and labels.numel() != 1:
            problem = f'{_place(sample, index)} has {labels.numel()} labels, and '
            problem += f'{loss} takes one class per image.'
            remedy = 'Write multi_label=True if the loss has it, take one that needs '
            remedy += 'no labels (SigmoidKDLoss), or correct the annotation.'
            value = f'labels {labels.tolist()}'
            raise ValueError(
                describe('train_dataloader.dataset', value, problem, remedy)
            )


def _place(sample, index: int) -> str:
    return sample.get('img_path', f'sample {index} of the batch')
