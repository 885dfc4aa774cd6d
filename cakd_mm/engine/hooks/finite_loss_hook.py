"""Stops training at a nan or an inf, before it can reach a checkpoint."""

from math import isfinite

import torch
import torch.distributed as dist
from mmengine.dist import is_distributed
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import find_latest_checkpoint
from torch import Tensor

from ...utils.errors import describe
from ...utils.model import unwrap
from .deferral import check_mode, is_deferred

ADVICE = (
    'Lower optim_wrapper.optimizer.lr, or clip gradients with '
    'optim_wrapper.clip_grad=dict(max_norm=5); under fp16 use bfloat16. Look for '
    'extreme pixels or labels in this batch.'
)


class NonFiniteError(RuntimeError):
    """A loss or a weight is nan or inf; training has stopped."""


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop at a non-finite loss with step, component, score ranges and advice.

    Where reading a value costs nothing (CPU) the run stops at that very step.
    On a GPU nothing is read per step: a flag is kept on the device, from the
    bad step on every update is undone there, and the run stops at the next
    logging point, checkpoint, validation or end of epoch. No checkpoint is
    written after a bad step, nor one with non-finite weights.

    Put it into ``default_hooks``. Several ranks stop together.

    Args:
        mode (str): ``'immediate'``, ``'deferred'`` or ``'auto'`` (deferred on
            any device but the CPU). Defaults to ``'auto'``.
        interval (int): Steps between two looks at the flag when deferred;
            matches ``LoggerHook``. Defaults to 10.

    Raises:
        ValueError: unknown ``mode`` or ``interval`` below 1.
    """

    # Ahead of every hook that would use the weights or the losses.
    priority = 'VERY_HIGH'

    def __init__(self, mode: str = 'auto', interval: int = 10) -> None:
        check_mode('default_hooks.finite.mode', mode)
        if interval < 1:
            raise ValueError(
                describe(
                    'default_hooks.finite.interval',
                    interval,
                    'It counts steps.',
                    'Write 1 or more.',
                )
            )
        self.mode = mode
        self.interval = interval
        self._done = 0
        self._names: list[str] = []
        self._record: _DeviceRecord | None = None

    def before_train(self, runner) -> None:
        """Choose the mode once the model is on its device."""
        model = unwrap(runner.model)
        device = next(model.parameters()).device
        deferred = is_deferred(self.mode, model)
        self._record = _DeviceRecord(model, device) if deferred else None

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Remember the weights the step may have to return to."""
        if self._record is not None:
            self._record.save()

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        """Look at every component of the step's loss."""
        self._done = runner.iter + 1
        losses = {
            name: value.detach()
            for name, value in (outputs or {}).items()
            if isinstance(value, Tensor)
        }
        if not losses:
            return
        if self._names and self._names != list(losses):  # distillation stopped, say
            self._look(runner)
        self._names = list(losses)
        values = torch.stack([v.float().mean() for v in losses.values()])
        bad = ~torch.isfinite(values)
        if is_distributed():
            bad = bad.to(torch.uint8)
            dist.all_reduce(bad, dist.ReduceOp.MAX)
            bad = bad.bool()
        if self._record is None:
            if bad.any():
                self._stop(runner, runner.iter, bad, values, _ranges(runner.model))
            return
        self._record.update(runner.iter, bad, values, _ranges(runner.model))
        if self.every_n_inner_iters(batch_idx, self.interval):
            self._look(runner)

    def after_train_epoch(self, runner) -> None:
        """Do not carry a bad step over the end of an epoch."""
        self._look(runner)

    def before_val(self, runner) -> None:
        """Do not score weights that a bad step has frozen."""
        self._look(runner)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Refuse to save after a bad step, or weights that are not finite."""
        self._look(runner)
        for name, value in checkpoint['state_dict'].items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise NonFiniteError(
                    f'{name} is not finite after step {self._done} although the '
                    f'losses were. {ADVICE} {_last_good(runner)}'
                )

    def _look(self, runner) -> None:
        """Read the device's record, the one synchronisation."""
        if self._record is not None and int(self._record.step) >= 0:
            record = self._record
            self._stop(
                runner, int(record.step), record.bad, record.values, record.ranges
            )

    def _stop(self, runner, step: int, bad, values, ranges) -> None:
        rows = zip(self._names, bad.tolist(), values.tolist(), strict=True)
        parts = [_component(name, value) for name, is_bad, value in rows if is_bad]
        scores = [
            f'{name} in [{low:.4g}, {high:.4g}]'
            for name, (low, high) in ((k, v.tolist()) for k, v in ranges.items())
        ]
        raise NonFiniteError(
            f'Non-finite loss at step {step + 1} (epoch {runner.epoch + 1}): '
            f'{", ".join(parts)}. Scores: {", ".join(scores) or "not recorded"}. '
            f'{ADVICE} {_last_good(runner)}'
        )


class _DeviceRecord:
    """What is known of the first bad step, kept on the device without a sync."""

    def __init__(self, model, device) -> None:
        skip = {id(t) for t in _teacher_tensors(model)}
        tensors = [*model.parameters(), *model.buffers()]
        self.live = [t.data for t in tensors if id(t) not in skip]
        self.saved = [torch.empty_like(t) for t in self.live]
        self.step = torch.full((), -1, dtype=torch.int64, device=device)
        self.bad: Tensor | None = None
        self.values: Tensor | None = None
        self.ranges: dict[str, Tensor] = {}

    def save(self) -> None:
        """Copy all weights that training changes."""
        torch._foreach_copy_(self.saved, self.live)

    def update(self, step: int, bad: Tensor, values: Tensor, ranges: dict) -> None:
        """Note a first bad step; from it on, undo every update."""
        seen = self.step >= 0
        self.step.copy_(torch.where(~seen & bad.any(), step, self.step))
        if self.bad is None or len(bad) != len(self.bad):
            self.bad, self.values, self.ranges = bad, values, ranges
        else:
            self.bad = torch.where(seen, self.bad, bad)
            self.values = torch.where(seen, self.values, values)
            self.ranges = {
                name: torch.where(seen, self.ranges.get(name, value), value)
                for name, value in ranges.items()
            }
        undo = self.step >= 0
        for live, saved in zip(self.live, self.saved, strict=True):
            live.copy_(torch.where(undo, saved, live))


def _teacher_tensors(model):
    teacher = getattr(model, 'teacher', None)
    return [] if teacher is None else [*teacher.parameters(), *teacher.buffers()]


def _ranges(model) -> dict[str, Tensor]:
    recorded = getattr(unwrap(model), 'recorded_ranges', None)
    return recorded() if recorded is not None else {}


def _component(name: str, value: float) -> str:
    elsewhere = ' on this rank, not finite on another' if isfinite(value) else ''
    return f'{name} = {value}{elsewhere}'


def _last_good(runner) -> str:
    path = find_latest_checkpoint(runner.work_dir)
    if path is None:
        return 'No checkpoint had been written yet.'
    return f'The last good checkpoint is {path}.'
