"""Stops training at a nan or an inf, before it can reach a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import compress
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...utils.errors import describe
from ...utils.model import unwrap
from ...utils.newest_checkpoint import newest_checkpoint
from ...utils.transfer import send
from .counting import counts_epochs
from .logged import check_mode, is_deferred
from .non_finite_cause import BadStep, cause_of, lower_the_rate

# Whoever scores with infinite ones gets no score that means anything.
STATISTICS = ('running_mean', 'running_var')


class NonFiniteError(RuntimeError):
    """A loss or a weight is nan or inf; training has stopped."""


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop at a non-finite loss with step, component, score ranges and cause.

    On a CPU, where reading a value costs nothing, the run stops at that very step. On
    a GPU the losses stay on the device, and the run stops at the next reading,
    checkpoint, validation or end of epoch, whichever comes first; the message names
    the first bad step. The weights in memory may be bad by then. But after a bad step,
    or with non-finite weights, no checkpoint, average or extracted student is written,
    so that the run can be resumed from its last checkpoint. Several ranks tell one
    another of bad steps when they read, so that all stop together, and no step waits
    for it. Put the hook into ``default_hooks``.

    Args:
        mode (str): ``'immediate'``, ``'deferred'`` or ``'auto'`` (deferred with
            several ranks, and on any device but the CPU). Defaults to ``'auto'``.
        interval (int): Steps between two readings of the losses when deferred.
            Defaults to 10, as in ``LoggerHook``.

    Raises:
        ValueError: unknown ``mode`` or ``interval`` below 1.
    """

    # Ahead of every hook that uses the weights or the losses.
    priority = 'VERY_HIGH'

    def __init__(self, mode: str = 'auto', interval: int = 10) -> None:
        check_mode('default_hooks.finite.mode', mode)
        if interval < 1:
            key = 'default_hooks.finite.interval'
            raise ValueError(
                describe(key, interval, 'It counts steps.', 'Write 1 or more.')
            )
        self.mode = mode
        self.interval = interval
        self._first = 0
        self._done = 0
        self._deferred = False
        self._unread: list[_Step] = []
        # Buffers that are infinite somewhere before training, as they are then.
        self._infinite: dict[str, Tensor] = {}

    def before_train(self, runner) -> None:
        """Choose the mode once the model is on its device."""
        self._first = runner.iter
        self._deferred = is_deferred(self.mode, unwrap(runner.model)) or (
            self.mode == 'auto' and get_world_size() > 1
        )
        self._unread.clear()
        self._infinite = _infinite_buffers(unwrap(runner.model))

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        """Check every component of the step's loss, or store it to be checked."""
        self._done = runner.iter + 1
        losses = {
            name: value.detach().float()
            for name, value in (outputs or {}).items()
            if isinstance(value, Tensor)
        }
        if not losses:
            return
        values = [x.mean() if x.dim() else x for x in losses.values()]
        if not self._deferred:
            bad = ~torch.isfinite(torch.stack(values))
            if not _of_any_rank(bad).any():
                return
        recorded = getattr(unwrap(runner.model), 'recorded_ranges', dict)
        ranges: dict[str, tuple[Tensor, Tensor]] = recorded()
        ends = [end.float() for pair in ranges.values() for end in pair]
        # One tensor, because each that is made costs a GPU a kernel in every step.
        numbers = torch.stack([*values, *ends])
        place = runner.iter, runner.epoch if counts_epochs(runner) else None
        self._unread.append(_Step(*place, list(losses), list(ranges), numbers))
        if not self._deferred or self.every_n_inner_iters(batch_idx, self.interval):
            self._read(runner, data_batch)

    def after_train_epoch(self, runner) -> None:
        """Stop at the end of the epoch of a bad step."""
        self._read(runner)

    def before_val(self, runner) -> None:
        """Stop before weights are scored that a bad step has changed."""
        self._read(runner)

    def before_checkpoint(self, runner) -> None:
        """Stop before :class:`WholeCheckpointHook` saves, which it tells all ranks."""
        self._read(runner)
        # Other wrappers give each rank a part of the weights.
        if get_world_size() > 1 and isinstance(runner.model, DistributedDataParallel):
            self._check_weights(runner, unwrap(runner.model).state_dict(), True)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Refuse to save after a bad step, or weights that are not finite."""
        # The main rank is here alone and must not wait for the others.
        if get_world_size() == 1:
            self._read(runner)
        self._check_weights(runner, checkpoint['state_dict'])

    def after_train(self, runner) -> None:
        """Refuse to extract a student whose weights are not finite.

        They are checked because no loss follows the last update.
        """
        is_whole = isinstance(runner.model, DistributedDataParallel)
        self._check_weights(runner, unwrap(runner.model).state_dict(), is_whole)

    def _read(self, runner, data_batch=None) -> None:
        """Wait for device and ranks, and stop if one of the unread steps was bad.

        ``data_batch`` is that of the last step, if it is still there.
        """
        if not self._unread:
            return
        losses = torch.cat([x.numbers[: len(x.names)] for x in self._unread])
        bad = _of_any_rank(~torch.isfinite(losses)).cpu()
        parts = bad.split([len(step.names) for step in self._unread])
        for step, part in zip(self._unread, parts, strict=True):
            if not part.any():
                continue
            batch = data_batch if step is self._unread[-1] else None
            known = step.read(part, batch, is_first=step.iter == self._first)
            raise NonFiniteError(
                f'Non-finite loss at {step.text(known)} {cause_of(known, runner)} '
                f'{_last_good(runner)}'
            )
        self._unread.clear()

    def _check_weights(
        self, runner, weights: Mapping[str, Tensor], on_all_ranks: bool = False
    ) -> None:
        """Stop if a weight is not finite, on this rank or on any."""
        flags = {
            name: self._is_bad(name, value)
            for name, value in weights.items()
            if value.is_floating_point()
        }
        if not flags:
            return
        device = next(iter(flags.values())).device
        own = torch.stack([send(x, device) for x in flags.values()])
        is_any = _of_any_rank(own.any()) if on_all_ranks else own.any()
        # One wait for the device, and not one for each weight.
        on_some_rank, *is_bad = torch.cat([is_any[None], own]).cpu().tolist()
        if on_some_rank:
            bad = next(compress(flags, is_bad), 'A weight of another rank')
            raise NonFiniteError(
                f'{bad} is not finite after step '
                f'{self._done} although the losses were, so an update or a batch was '
                f'too large for it. {lower_the_rate(runner)} {_last_good(runner)}'
            )

    def _is_bad(self, name: str, value: Tensor) -> Tensor:
        bad = ~torch.isfinite(_comparable(value))
        before = self._infinite.get(name)
        if before is not None and before.shape == value.shape:
            bad &= value != before.to(value.device)
        return bad.any()


@dataclass
class _Step:
    """A step's losses by name, and the least and greatest score of each recorder.

    The numbers of both are in one tensor, on the device until :meth:`read`.
    """

    iter: int
    epoch: int | None  # of a run that counts them
    names: list[str]
    recorders: list[str]
    numbers: Tensor

    def read(self, bad: Tensor, batch: Any, is_first: bool) -> BadStep:
        """Return what is known of the step, on the host; ``bad`` flags losses."""
        numbers = self.numbers.cpu().tolist()
        losses = zip(self.names, bad.tolist(), numbers, strict=False)
        ends = numbers[len(self.names) :]
        pairs = zip(self.recorders, ends[::2], ends[1::2], strict=True)
        return BadStep(
            bad={name: value for name, is_bad, value in losses if is_bad},
            scores={name: [low, high] for name, low, high in pairs},
            batch=batch,
            is_first=is_first,
        )

    def text(self, known: BadStep) -> str:
        """Return step, bad components and ranges of scores in words."""
        # A loss may be finite on this rank though it is not on another.
        parts = [
            f'{name} = {value}'
            + (' on this rank, not finite on another' if isfinite(value) else '')
            for name, value in known.bad.items()
        ]
        scores = [
            '{} in [{:.4g}, {:.4g}]'.format(name, *ends)
            for name, ends in known.scores.items()
        ]
        place = f'step {self.iter + 1}'
        if self.epoch is not None:
            place += f' (epoch {self.epoch + 1})'
        return (
            f'{place}: {", ".join(parts)}. '
            f'Scores: {", ".join(scores) or "not recorded"}.'
        )


def _infinite_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return those that are saved and hold an inf, but no running statistics."""
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    return {
        name: value.clone()
        for name, value in model.state_dict().items()
        if name in buffers
        and value.is_floating_point()
        and not name.endswith(STATISTICS)
        and _comparable(value).isinf().any()
    }


def _comparable(value: Tensor) -> Tensor:
    # PyTorch looks for no inf among numbers of eight bits.
    return value.float() if value.itemsize == 1 else value


def _of_any_rank(flags: Tensor) -> Tensor:
    """Return which flags, a bool tensor, are set on any rank."""
    numbers = flags.to(torch.uint8)
    all_reduce(numbers, 'max')
    return numbers.bool()


def _last_good(runner) -> str:
    path = newest_checkpoint(Path(runner.work_dir), runner.cfg).path
    if path is None:
        return 'No checkpoint had been written yet.'
    return f'The last good checkpoint is {path}.'
