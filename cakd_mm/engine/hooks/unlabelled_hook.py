"""Prepares training batches of a distillation that have images without labels."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ...models.algorithms.unlabelled import lacking, needs_labels
from ...tasks import task_of
from ...utils.errors import describe
from ...utils.model import unwrap


@HOOKS.register_module()
class UnlabelledHook(Hook):
    """Let a student learn from images without labels, by its teacher alone.

    With ``model.calculate_student_loss=False`` a batch in which some images have labels
    is trained as one without any. Put it into ``default_hooks``; it does nothing for a
    model without a teacher.

    Raises:
        ValueError: some images have no label, and the student's own loss is to be
            computed, or images are to be mixed, which mmpretrain does to labelled ones
            alone.
    """

    # Ahead of hooks that read the labels.
    priority = 'VERY_HIGH'

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Look at the labels of a batch, before a preprocessor joins them."""
        model = unwrap(runner.model)
        samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else ()
        if not hasattr(model, 'calculate_student_loss') or not isinstance(
            samples, (list, tuple)
        ):
            return
        samples = list(samples)
        task = task_of(model.student)
        lack = lacking(samples, task)
        if not lack:
            return
        augments = getattr(model.data_preprocessor, 'batch_augments', None)
        if augments is not None:
            problem = f'{lack} (train_dataloader), and mmpretrain mixes only labelled.'
            remedy = 'Remove batch_augments, or use images with labels.'
            key, name = 'data_preprocessor.batch_augments', type(augments).__name__
            raise ValueError(describe(key, name, problem, remedy))
        labelled = [sample for sample in samples if task.has_label(sample)]
        if labelled and model.calculate_student_loss:
            raise needs_labels(lack)
        for sample in labelled:
            for name in task.annotations:
                if name in sample:
                    delattr(sample, name)
