"""Makes the buffers of all ranks equal before they are scored or saved."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress

import torch
from mmengine.dist import all_reduce, broadcast, get_world_size
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn

from ...utils.agreement import exchange
from ...utils.error_log import errors_in_log
from ...utils.errors import describe, first_of
from ...utils.model import unwrap


@HOOKS.register_module()
class AverageBuffersHook(Hook):
    """Let ranks score and save the same buffers: mean statistics, and rank 0's others.

    Batch normalisation counts on each rank the images of that rank, so that each rank
    would score another net, and a checkpoint would hold that of one rank. The means
    take the place of what the ranks had, and training goes on with them, as a run does
    that is resumed. They are taken before a validation, at the end of an epoch and of
    the training, and where a ``CheckpointHook`` saves after a step.

    Averaged are the running statistics of layers of normalisation in the student (or in
    a plain classifier) and in the distiller, whose connectors are trained as the
    student is. A mean of other buffers, a queue or a smallest value so far, would be
    none of them: those of the student become rank 0's, which is what is saved, and the
    log names them once if ranks differed. Both are done in the averages of an
    ``EMAHook`` too. What is not saved, the teacher, and what losses remember, such as
    CRD's banks, are left alone. With one rank the hook does nothing. Put it into
    ``default_hooks``.

    Raises:
        ValueError: a buffer has other shapes or types on other ranks, or is not there.
    """

    # After the averages of weights have taken a step, and before it is saved.
    priority = 'LOW'
    _is_told = False

    def before_run(self, runner) -> None:
        """Compare the buffers before mmengine sends those of rank 0."""
        if get_world_size() > 1:
            # The loop, which writes its own errors there, has not begun yet.
            with errors_in_log(runner.logger):
                _compare(list(_buffers_of(unwrap(runner.model))))

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        """Average if a checkpoint follows."""
        if any(_saves_after_step(hook, runner) for hook in runner.hooks):
            self._average(runner)

    def after_train_epoch(self, runner) -> None:
        """Average for the checkpoint of an epoch."""
        self._average(runner)

    def before_val(self, runner) -> None:
        """Average for the scores."""
        self._average(runner)

    def after_train(self, runner) -> None:
        """Average for the student that is extracted."""
        self._average(runner)

    @torch.no_grad()
    def _average(self, runner) -> None:
        """Make the buffers of the model and of averages of its weights equal."""
        if get_world_size() == 1:
            return
        own = list(_buffers_of(unwrap(runner.model)))
        copies: list[tuple[_Buffer, _Buffer]] = []
        for number, hook in enumerate(runner.hooks):
            if isinstance(hook, EMAHook):
                average = _buffers_of(hook.ema_model.module, f'average{number}.')
                if hook.ema_model.update_buffers:
                    own += average
                else:  # They are those of the model, to the last digit.
                    copies += zip(average, _buffers_of(hook.src_model), strict=True)
        _compare(own)
        if own:
            names = _make_equal(own, self._is_told)
            if names:
                self._is_told = True
                runner.logger.warning(
                    f'Buffers differ between ranks, and all take what rank 0 has, '
                    f'which is saved: {first_of(names)}.'
                )
        for copied, buffer in copies:
            copied.value.copy_(buffer.value)


def _saves_after_step(hook: Hook, runner) -> bool:
    """Return whether a hook writes a checkpoint after this step.

    It cannot be left to ``before_save_checkpoint``, which rank 0 alone calls.
    """
    if not isinstance(hook, CheckpointHook) or hook.by_epoch:
        return False
    if hook.save_last and hook.is_last_train_iter(runner):
        return True
    return hook.every_n_train_iters(runner, hook.interval, hook.save_begin)


@dataclass
class _Buffer:
    name: str
    value: Tensor
    is_averaged: bool


def _buffers_of(model: nn.Module, prefix: str = '') -> Iterator[_Buffer]:
    """Yield the buffers in which ranks may differ, each with memory of its own."""
    net = getattr(model, 'student', model)
    name_of_net = 'model' if net is model else 'student'
    parts = {name_of_net: net, 'distiller': getattr(model, 'distiller', None)}
    seen: set[int] = set()
    for start, part in parts.items():
        for path, module in part.named_modules(prefix=prefix + start) if part else ():
            is_norm = 'running_mean' in module._buffers
            for name, value in module._buffers.items():
                if value is None or name in module._non_persistent_buffers_set:
                    continue
                is_averaged = is_norm and value.is_floating_point()
                if id(value) in seen or not (part is net or is_averaged):
                    continue
                seen.add(id(value))
                if 0 in value.stride():  # Nobody could write into an expanded one.
                    value.data = value.contiguous()
                yield _Buffer(f'{path}.{name}', value, is_averaged)


def _compare(buffers: list[_Buffer]) -> None:
    """Refuse buffers that are not alike on all ranks."""
    own = {x.name: f'{x.value.dtype} {tuple(x.value.shape)}' for x in buffers}
    layouts = exchange(own)
    for name in dict.fromkeys(name for layout in layouts for name in layout):
        found = [layout.get(name, 'not there') for layout in layouts]
        if len(set(found)) > 1:
            by_rank = (f'{text} on rank {rank}' for rank, text in enumerate(found))
            problem = (
                f'The buffer {name} is {", ".join(by_rank)}, so that ranks cannot '
            )
            problem += 'score the net that is saved.'
            remedy = 'Register it alike on all ranks, or with persistent=False.'
            key = 'default_hooks.buffers'
            raise ValueError(describe(key, 'AverageBuffersHook', problem, remedy))


def _make_equal(buffers: list[_Buffer], is_told: bool) -> list[str]:
    """Put means and rank 0's values into buffers.

    Returns:
        list[str]: Names of those that differed and are no means, unless ``is_told``.
    """
    # Ranks may have registered them in another order.
    buffers = sorted(buffers, key=lambda buffer: (not buffer.is_averaged, buffer.name))
    device = buffers[0].value.device
    own = [_bytes(buffer.value).to(device) for buffer in buffers]
    packed = torch.cat(own)
    broadcast(packed)
    sent = packed.split([len(part) for part in own])
    # A part may begin where a number of its type may not, and so it is copied.
    firsts = [
        part.clone().view(buffer.value.dtype).view(buffer.value.shape)
        for buffer, part in zip(buffers, sent, strict=True)
    ]
    count = sum(buffer.is_averaged for buffer in buffers)
    pairs = zip(sent[count:], own[count:], strict=True)
    differs = [(first != mine).any() for first, mine in pairs]
    means, has_differed = _means(
        [buffer.value.to(device) for buffer in buffers[:count]],
        firsts[:count],
        torch.stack(differs) if differs else torch.zeros(0, device=device),
    )
    for buffer, value in zip(buffers, [*means, *firsts[count:]], strict=True):
        buffer.value.copy_(value)
    if is_told:
        return []
    names = [buffer.name for buffer in buffers[count:]]
    return list(compress(names, has_differed.tolist()))


def _means(
    own: list[Tensor], firsts: list[Tensor], flags: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Return the mean of each tensor over all ranks, and in how many flags are set.

    The differences to rank 0 are averaged, because a sum of equal numbers divided by
    their count may differ from them.

    Args:
        own (list[Tensor]): What this rank has, on one device.
        firsts (list[Tensor]): What rank 0 has.
        flags (Tensor): Flags of this rank; they are sent with the differences.
    """
    is_double = any(value.dtype == torch.float64 for value in own)
    flags = flags.to(torch.float64 if is_double else torch.float32)
    mine, base = (
        torch.cat([flags[:0], *(value.flatten().to(flags) for value in values)])
        for values in (own, firsts)
    )
    # No difference can be taken to an infinite number.
    base = torch.where(base.isfinite(), base, 0)
    ranks = get_world_size()
    # Half of a difference is a number where the difference is too large for one.
    packed = torch.cat([mine / ranks - base / ranks, flags])
    all_reduce(packed)
    gaps, counts = packed.split([len(base), len(flags)])
    parts = (base + gaps).split([value.numel() for value in own])
    return [part.view_as(value) for part, value in zip(parts, own, strict=True)], counts


def _bytes(value: Tensor) -> Tensor:
    flat = value.resolve_conj().flatten()
    # A single expanded number counts as contiguous, and cannot be viewed as bytes.
    return flat.clone(memory_format=torch.contiguous_format).view(torch.uint8)
