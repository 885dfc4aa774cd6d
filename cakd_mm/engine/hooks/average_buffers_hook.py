"""Makes the running statistics of all ranks equal before they are scored or saved."""

from collections.abc import Iterator

import torch
from mmengine.dist import all_reduce, broadcast, get_world_size
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn

from ...utils.model import unwrap


@HOOKS.register_module()
class AverageBuffersHook(Hook):
    """Average the running statistics over all ranks before they are scored or saved.

    Batch normalisation counts on each rank the images of that rank, so that each rank
    would score another net, and a checkpoint would hold that of one rank. The means
    take the place of what the ranks had, and training goes on with them, as a run does
    that is resumed. They are taken before a validation, at the end of an epoch and of
    the training, and where a ``CheckpointHook`` saves after a step.

    Averaged are all floating-point buffers of the student (or of a plain classifier),
    those of layers of normalisation in the distiller, whose connectors are trained as
    the student is, and both in the averages of an ``EMAHook``. The teacher and what
    losses remember, such as CRD's banks, are left alone, because they are equal on all
    ranks already. With one rank the hook does nothing. Put it into ``default_hooks``.
    """

    # After the averages of weights have taken a step, and before it is saved.
    priority = 'LOW'

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        """Average if a checkpoint follows."""
        if any(_saves_after_step(hook, runner) for hook in runner.hooks):
            _average(runner)

    def after_train_epoch(self, runner) -> None:
        """Average for the checkpoint of an epoch."""
        _average(runner)

    def before_val(self, runner) -> None:
        """Average for the scores."""
        _average(runner)

    def after_train(self, runner) -> None:
        """Average for the student that is extracted."""
        _average(runner)


def _saves_after_step(hook: Hook, runner) -> bool:
    """Return whether a hook writes a checkpoint after this step.

    It cannot be left to ``before_save_checkpoint``, which rank 0 alone calls.
    """
    if not isinstance(hook, CheckpointHook) or hook.by_epoch:
        return False
    if hook.save_last and hook.is_last_train_iter(runner):
        return True
    return hook.every_n_train_iters(runner, hook.interval, hook.save_begin)


@torch.no_grad()
def _average(runner) -> None:
    """Put the means over all ranks into the model and into averages of its weights."""
    ranks = get_world_size()
    if ranks == 1:
        return
    own = list(_buffers_of(unwrap(runner.model)))
    copies: list[tuple[Tensor, Tensor]] = []
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            average = _buffers_of(hook.ema_model.module)
            if hook.ema_model.update_buffers:
                own += average
            else:  # They are those of the model, to the last digit.
                copies += zip(average, _buffers_of(hook.src_model), strict=True)
    if own:
        for buffer, mean in zip(own, _means(own), strict=True):
            buffer.copy_(mean)
    for copied, buffer in copies:
        copied.copy_(buffer)


def _means(buffers: list[Tensor]) -> Iterator[Tensor]:
    """Yield the mean of each buffer over all ranks; if all agree, what they have.

    The differences to rank 0 are averaged, because a sum of equal numbers divided by
    their count may differ from them.
    """
    device = buffers[0].device
    packed = torch.cat([buffer.flatten().to(device) for buffer in buffers])
    packed = packed.to(torch.promote_types(packed.dtype, torch.float32))
    means = packed.clone()
    broadcast(means)
    # Equal infinite numbers have no difference.
    gaps = torch.where(packed == means, 0, packed - means)
    all_reduce(gaps, 'mean')
    parts = (means + gaps).split([buffer.numel() for buffer in buffers])
    for buffer, part in zip(buffers, parts, strict=True):
        yield part.view(buffer.shape)


def _buffers_of(model: nn.Module) -> Iterator[Tensor]:
    """Yield the buffers in which ranks may differ."""
    net = getattr(model, 'student', model)
    others = getattr(model, 'distiller', nn.Identity()).modules()
    norms = (x for x in others if 'running_mean' in x._buffers)
    for module in (net, *norms):
        yield from (x for x in module.buffers() if x.is_floating_point())
