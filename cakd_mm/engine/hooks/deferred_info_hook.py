"""Reads losses from a GPU when they are logged, and not in every step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.hooks import RuntimeInfoHook
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from torch import Tensor

from ...utils.transfer import send
from .logged import check_mode, is_deferred, is_logged


@HOOKS.register_module()
class DeferredInfoHook(RuntimeInfoHook):
    """mmengine's ``RuntimeInfoHook`` that does not wait for the GPU in each step.

    mmengine reads the losses of every step, which waits for the GPU to finish the step
    while nothing more is queued. With this hook the losses stay on the device until
    ``LoggerHook`` writes a line, a checkpoint is saved or an epoch ends. Then all are
    read at once, and the history is the same. So is the norm of gradients that
    ``optim_wrapper.clip_grad`` logs. On a CPU, where reading costs nothing, it does
    what mmengine's hook does. Write
    ``default_hooks=dict(runtime_info=dict(type='DeferredInfoHook'))``.

    Args:
        mode (str): ``'immediate'``, ``'deferred'`` or ``'auto'`` (deferred on any
            device but the CPU). Defaults to ``'auto'``.

    Raises:
        ValueError: unknown ``mode``.
    """

    def __init__(self, mode: str = 'auto') -> None:
        check_mode('default_hooks.runtime_info.mode', mode)
        self.mode = mode
        self._deferred = False
        # Names and values of the losses of each step that is not read yet.
        self._steps: list[tuple[list[str], Tensor]] = []
        # Norms of gradients of this step by name, and of several optimizers.
        self._norms: list[tuple[str, Tensor]] = []

    def before_train(self, runner) -> None:
        """Choose the mode once the model is on its device."""
        super().before_train(runner)
        self._deferred = is_deferred(self.mode, runner.model)
        wrapper = runner.optim_wrapper
        several = isinstance(wrapper, OptimWrapperDict)
        for part in wrapper.values() if several else [wrapper]:
            # A wrapper of another library need not clip.
            if self._deferred and getattr(part, 'clip_grad_kwargs', None):
                clip = part.clip_func
                clip = clip.clip if isinstance(clip, _KeepsNorm) else clip
                part.clip_func = _KeepsNorm(clip, part.grad_name, self._norms)

    def after_train_iter(
        self, runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        """Store the losses of the step, and read all steps if a line follows."""
        if not self._deferred:
            super().after_train_iter(runner, batch_idx, data_batch, outputs)
            return
        found = [*self._norms, *(outputs or {}).items()]
        self._norms.clear()
        if found:
            values = [torch.as_tensor(value).detach() for _, value in found]
            devices = (x.device for x in values)
            device = next((x for x in devices if x.type != 'cpu'), values[0].device)
            stacked = [send(x.float(), device) for x in values]
            names = [name for name, _ in found]
            self._steps.append((names, torch.stack(stacked)))
        if is_logged(runner, batch_idx):
            self._read(runner)

    def after_train_epoch(self, runner) -> None:
        """Read the steps that are left."""
        self._read(runner)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Read the steps that are left into the history that is saved."""
        if self._steps:
            self._read(runner)
            checkpoint['message_hub'] = runner.message_hub.state_dict()

    def _read(self, runner) -> None:
        steps, self._steps = self._steps, []
        if not steps:
            return
        numbers = iter(torch.cat([values for _, values in steps]).cpu().tolist())
        for names, _ in steps:
            for name in names:
                runner.message_hub.update_scalar(f'train/{name}', next(numbers))


@dataclass
class _KeepsNorm:
    """Clips gradients, and returns nothing, so that mmengine reads nothing."""

    clip: Callable[..., Tensor | None]
    name: str
    norms: list[tuple[str, Tensor]]

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        norm = self.clip(*args, **kwargs)
        if norm is not None:
            self.norms.append((self.name, norm))
