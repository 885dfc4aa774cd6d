"""Reads what a GPU has computed when it is logged, and not in every step."""

import torch
from mmengine.hooks import RuntimeInfoHook
from mmengine.registry import HOOKS
from torch import Tensor

from .deferral import check_mode, is_deferred
from .logged import is_logged, logger_hook


@HOOKS.register_module()
class DeferredInfoHook(RuntimeInfoHook):
    """mmengine's ``RuntimeInfoHook`` that does not wait for the GPU in each step.

    mmengine reads every loss of every step, for which the GPU has to be done with it;
    meanwhile nothing is queued. Here losses stay where they are until ``LoggerHook``
    writes a line, a checkpoint is saved or an epoch ends, and are read all at once: the
    history is the same. On a CPU, where reading costs nothing, it is mmengine's hook.
    Write ``default_hooks=dict(runtime_info=dict(type='DeferredInfoHook'))``.

    Args:
        mode (str): ``'immediate'``, ``'deferred'`` or ``'auto'`` (deferred on any
            device but the CPU). Defaults to ``'auto'``.

    Raises:
        ValueError: unknown ``mode``.
    """

    def __init__(self, mode: str = 'auto') -> None:
        check_mode('default_hooks.runtime_info.mode', mode)
        self.mode = mode
        # Names and values of each step since the last reading.
        self._steps: list[tuple[tuple[str, ...], Tensor]] = []

    def before_train(self, runner) -> None:
        """Choose the mode once the model is on its device."""
        super().before_train(runner)
        self._deferred = is_deferred(self.mode, runner.model)
        self._logger_hook = logger_hook(runner)

    def after_train_iter(
        self, runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        """Keep the step's losses, and read all that are kept if a line follows."""
        if not self._deferred:
            super().after_train_iter(runner, batch_idx, data_batch, outputs)
            return
        if outputs:
            values = [torch.as_tensor(value).detach() for value in outputs.values()]
            device = next((v.device for v in values if v.device.type != 'cpu'), None)
            stacked = torch.stack([value.float().to(device) for value in values])
            self._steps.append((tuple(outputs), stacked))
        if is_logged(runner, self._logger_hook, batch_idx):
            self._read(runner)

    def after_train_epoch(self, runner) -> None:
        """Leave nothing unread behind an epoch."""
        self._read(runner)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Put what is unread into the history that is saved."""
        if self._steps:
            self._read(runner)
            checkpoint['message_hub'] = runner.message_hub.state_dict()

    def _read(self, runner) -> None:
        steps, self._steps = self._steps, []
        if not steps:
            return
        numbers = iter(torch.cat([values for _, values in steps]).tolist())
        for names, _ in steps:
            for name in names:
                runner.message_hub.update_scalar(f'train/{name}', next(numbers))
