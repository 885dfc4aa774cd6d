"""Logs the terms of the distillation losses."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.registry import HOOKS
from mmrazor.engine import StopDistillHook
from torch import Tensor

from ...models.distillers.distiller_config import short_name
from ...utils.errors import describe
from ...utils.model import unwrap
from .counting import counts_epochs
from .distill_warmup_hook import SCALAR as WARMUP
from .logged import is_logged

# Entry of the runner's message hub, and so of checkpoints: the sums that no line has
# logged yet, by the losses that they are of.
SUMS = 'sums_of_terms'


@HOOKS.register_module()
class DistillTermsHook(Hook):
    """Log every term of every distillation loss, averaged since the last line.

    The terms (``bcd``, ``scd``, ``wcd``, ``r``, ``lambda``, ...) appear as
    ``<loss>/<term>`` wherever mmengine logs: console, json, TensorBoard. What they are
    means of is added up on the device, by one kernel a step, and the means are only
    computed and read when ``LoggerHook`` writes a line. Terms
    that cost time (``kept_*``, ``grad_ratio``) are computed in those steps alone. A
    warning of a loss, such as that of a collapsed scorer, is printed once. A checkpoint
    holds the sums, so that a resumed run logs what the uninterrupted one logs. The hook
    does nothing for a model without a :class:`StrictDistiller`. When mmrazor's
    ``StopDistillHook`` has stopped distillation, the log has neither terms nor losses
    of it any more, and the means of the other losses begin anew. Put it into
    ``default_hooks``.

    Raises:
        ValueError: distillation will be stopped, and the student has no other loss, or
            the loop counts no epochs, of which one is to be the last of distillation.
    """

    # Ahead of LoggerHook.
    priority = 'NORMAL'

    def __init__(self) -> None:
        self.model: Any = None
        self.distiller: Any = None
        # By names and shapes of the rows of a step: their sums on the device, and the
        # count of such steps.
        self._sums: dict[tuple, tuple[list[Tensor], int]] = {}
        self._warned: set[str] = set()

    def before_train(self, runner) -> None:
        """Look for a distiller that has terms."""
        self.model = unwrap(runner.model)
        distiller = getattr(self.model, 'distiller', None)
        self.distiller = distiller if hasattr(distiller, 'rows') else None
        if self.distiller is not None:
            self._sums = self._sums_in(runner.message_hub, runner.iter > 0)
        for hook in runner.hooks:
            if isinstance(hook, StopDistillHook):
                self._check_stop(hook.stop_epoch, runner)

    def _sums_in(self, hub: MessageHub, goes_on: bool) -> dict:
        """Return the sums that checkpoints hold; those of other losses are dropped."""
        losses = self.distiller.losses().items()
        key = str({name: loss.class_name for name, loss in losses})
        saved = hub.get_info(SUMS, {}) if goes_on else {}
        if saved and key not in saved:
            self._forget(hub.log_scalars)
        sums = saved.get(key, {})
        hub.update_info(SUMS, {key: sums})
        return sums

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
        self._add(self.distiller.rows())
        if is_logged(runner, batch_idx):
            self._log(runner)

    @torch.no_grad()
    def _add(self, rows: dict[tuple[str, str], Tensor]) -> None:
        """Add the rows of a step to those of the steps before."""
        if not rows:
            return
        values = [value.float() for value in rows.values()]
        kind = tuple((name, tuple(value.shape)) for name, value in rows.items())
        if kind not in self._sums:
            # They are copied, because a loss may go on to write into its own.
            self._sums[kind] = list(torch._foreach_add(values, 0.0)), 1
            return
        sums, count = self._sums[kind]
        torch._foreach_add_(sums, values)
        self._sums[kind] = sums, count + 1

    def _check_stop(self, epoch: int, runner) -> None:
        """Refuse a stop that never comes, or that leaves the student without a loss."""
        if not counts_epochs(runner):
            loop = type(runner.train_loop).__name__
            problem = f'{loop} counts no epochs, so that distillation would never stop.'
            remedy = "Remove the hook, or write train_cfg.type='ResumableTrainLoop'."
            raise ValueError(
                describe('StopDistillHook.stop_epoch', epoch, problem, remedy)
            )
        stops = epoch < runner.max_epochs
        if stops and not getattr(self.model, 'calculate_student_loss', True):
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
        means = self._means()
        for name, mean in means.items():
            runner.message_hub.update_scalar(f'train/{name}', mean)
        for text in self.distiller.warnings(means):
            key = text[:90]  # names the loss and the problem, without numbers
            if key not in self._warned:
                self._warned.add(key)
                runner.logger.warning(text)

    def _means(self) -> dict[str, float]:
        """Return the means of the terms since the last line, and begin anew."""
        weights: dict[str, int] = {}
        terms: list[tuple[str, int, Tensor]] = []
        for kind, (sums, count) in self._sums.items():
            rows = torch._foreach_div(sums, float(count))
            keys = (key for key, _ in kind)
            found = self.distiller.terms_of(dict(zip(keys, rows, strict=True)))
            for name, value in found.items():
                weights[name] = weights.get(name, 0) + count
                terms.append((name, count, value))
        self._sums.clear()
        if not terms:
            return {}
        means = dict.fromkeys(weights, 0.0)
        numbers = torch.stack([value for _, _, value in terms]).cpu().tolist()
        for (name, count, _), number in zip(terms, numbers, strict=True):
            means[name] += number * count / weights[name]
        return means
