"""Logs the terms of the distillation losses."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS
from mmrazor.engine import StopDistillHook
from torch import Tensor

from ...models.distillers.distiller_config import short_name
from ...utils.errors import describe
from ...utils.model import unwrap
from .distill_warmup_hook import SCALAR as WARMUP
from .logged import is_logged


@HOOKS.register_module()
class DistillTermsHook(Hook):
    """Log every term of every distillation loss, averaged since the last line.

    The terms (``bcd``, ``scd``, ``wcd``, ``r``, ``lambda``, ...) appear as
    ``<loss>/<term>`` wherever mmengine logs: console, json, TensorBoard. They are
    added up on the device and are only read when ``LoggerHook`` writes a line. Terms
    that cost time (``kept_*``, ``grad_ratio``) are computed in those steps alone. A
    warning of a loss, such as that of a collapsed scorer, is printed once. The hook
    does nothing for a model without a :class:`StrictDistiller`. When mmrazor's
    ``StopDistillHook`` has stopped distillation, the log has neither terms nor losses
    of it any more, and the means of the other losses begin anew. Put it into
    ``default_hooks``.

    Raises:
        ValueError: distillation will be stopped, and the student has no other loss.
    """

    # Ahead of LoggerHook.
    priority = 'NORMAL'

    def __init__(self) -> None:
        self.model: Any = None
        self.distiller: Any = None
        # By the names of the terms of a step: their sums on the device, and the count
        # of such steps.
        self._sums: dict[tuple[str, ...], tuple[Tensor, int]] = {}
        self._warned: set[str] = set()

    def before_train(self, runner) -> None:
        """Look for a distiller that has terms."""
        self.model = unwrap(runner.model)
        distiller = getattr(self.model, 'distiller', None)
        self.distiller = distiller if hasattr(distiller, 'terms') else None
        self._sums.clear()
        for hook in runner.hooks:
            if isinstance(hook, StopDistillHook):
                self._check_stop(hook.stop_epoch, runner.max_epochs)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Let the losses compute terms that cost time only if a line follows."""
        if getattr(self.model, 'distillation_stopped', False):
            self._forget(runner.message_hub.log_scalars)
        elif self.distiller is not None:
            self.distiller.probing = is_logged(runner, batch_idx)

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        """Add up the terms of the step, and log their means if a line follows."""
        stopped = getattr(self.model, 'distillation_stopped', False)
        if self.distiller is None or stopped:
            return
        terms = self.distiller.terms()
        if terms:
            names = tuple(terms)
            values = torch.stack([value.detach().float() for value in terms.values()])
            sums, count = self._sums.get(names, (torch.zeros_like(values), 0))
            self._sums[names] = (sums + values, count + 1)
        if is_logged(runner, batch_idx):
            self._log(runner)

    def _check_stop(self, epoch: int, epochs: int) -> None:
        """Refuse to stop distillation where nothing else trains the student."""
        if epoch < epochs and not getattr(self.model, 'calculate_student_loss', True):
            problem = (
                f'StopDistillHook.stop_epoch={epoch} ends the distillation, and the '
                'student would have no loss from then on.'
            )
            remedy = 'Write calculate_student_loss=True, or remove the hook.'
            key = 'model.calculate_student_loss'
            raise ValueError(describe(key, False, problem, remedy))

    def _forget(self, scalars: dict[str, HistoryBuffer]) -> None:
        """Remove what distillation has logged, because mmengine would repeat it."""
        names = self.distiller.losses() if self.distiller is not None else ()
        own = tuple(f'train/{short_name(name)}/' for name in names)
        old = [k for k in scalars if k.startswith(('train/distill.', WARMUP, *own))]
        if not old:
            return
        # The log shows means over several steps, also over those that had the losses
        # of the distillation in their sum.
        old += [k for k in scalars if k.startswith(('train/loss', 'train/student.'))]
        for name in old:
            del scalars[name]

    def _log(self, runner) -> None:
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for names, (total, count) in self._sums.items():
            for name, value in zip(names, total.tolist(), strict=True):
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + count
        self._sums.clear()
        means = {name: total / counts[name] for name, total in sums.items()}
        for name, mean in means.items():
            runner.message_hub.update_scalar(f'train/{name}', mean)
        for text in self.distiller.warnings(means):
            key = text[:90]  # names the loss and the problem, without numbers
            if key not in self._warned:
                self._warned.add(key)
                runner.logger.warning(text)
