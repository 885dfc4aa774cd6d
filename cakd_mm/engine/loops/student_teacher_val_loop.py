"""Validation of the teacher beside the student."""

import torch
from mmengine.dist import all_gather_object
from mmengine.registry import LOOPS
from mmengine.runner import ValLoop, autocast
from torch.utils.data import DataLoader

from ...models.algorithms import FrozenTeacherDistill
from ...models.taps import gives_scores
from ...utils.errors import describe
from ...utils.model import unwrap
from .resident import resident_loader


@LOOPS.register_module()
class StudentTeacherValLoop(ValLoop):
    """Score the student as usual, then the teacher on the same images.

    The teacher's metrics have the prefix ``teacher/``. Use it with
    ``val_cfg=dict(type='StudentTeacherValLoop')``; the default loop scores the
    student only.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): Config of the loader, or the loader.
        *args: As in mmengine.
        resident (bool): Whether the decoded images stay on the model's device; see
            :class:`ResidentDataset`. Defaults to False.
        **kwargs: As in mmengine.

    Raises:
        ValueError: the model has no teacher, or none with a classifier, or the data
            cannot be made resident; or ranks that share out the teacher have unequal
            numbers of batches.
    """

    def __init__(
        self,
        runner,
        dataloader: DataLoader | dict,
        *args,
        resident: bool = False,
        **kwargs,
    ) -> None:
        if resident:
            dataloader = resident_loader(dataloader, runner.model, runner.seed)
        super().__init__(runner, dataloader, *args, **kwargs)
        teacher = getattr(unwrap(runner.model), 'teacher', None)
        if teacher is not None and not gives_scores(teacher):
            problem = 'The teacher has no classifier, so it cannot be scored.'
            name, remedy = type(self).__name__, 'Write val_cfg=dict().'
            raise ValueError(describe('val_cfg.type', name, problem, remedy))

    def run(self) -> dict:
        """Validate both and return all metrics."""
        model = unwrap(self.runner.model)
        if not hasattr(model, 'teacher'):
            problem = f'{type(model).__name__} has no teacher to score.'
            name, remedy = type(self).__name__, 'Write val_cfg=dict().'
            raise ValueError(describe('val_cfg.type', name, problem, remedy))
        if getattr(model, 'teacher_is_shared_out', False):
            self._require_even()
        self.runner.call_hook('before_val')
        self.runner.call_hook('before_val_epoch')
        self.runner.model.eval()
        for index, batch in enumerate(self.dataloader):
            self.run_iter(index, batch)
        metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
        for batch in self.dataloader:
            self._score_teacher(model, batch)
        scores = self.evaluator.evaluate(len(self.dataloader.dataset))
        metrics.update({f'teacher/{name}': value for name, value in scores.items()})
        self.runner.call_hook('after_val_epoch', metrics=metrics)
        self.runner.call_hook('after_val')
        return metrics

    def _require_even(self) -> None:
        """Refuse unequal numbers of batches, where the teacher's weights are shared."""
        counts = all_gather_object(len(self.dataloader))
        if len(set(counts)) > 1:
            problem = 'A rank cannot run the teacher without the others '
            problem += '(model.teacher_shard), so some would wait for ever.'
            remedy = "Write sampler=dict(type='DefaultSampler', shuffle=False)."
            value = f'{" and ".join(map(str, counts))} batches'
            raise ValueError(describe('val_dataloader', value, problem, remedy))

    @torch.no_grad()
    def _score_teacher(self, model, batch) -> None:
        with autocast(enabled=self.fp16):
            data = model.data_preprocessor(batch, False)
            if isinstance(model, FrozenTeacherDistill):
                data['inputs'] = model.teacher_inputs(data['inputs'])
            outputs = model.teacher(**data, mode='predict')
        self.evaluator.process(data_samples=outputs, data_batch=batch)
