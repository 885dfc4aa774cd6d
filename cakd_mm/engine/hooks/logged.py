"""When hooks read and log what a device has computed."""

from mmengine.hooks import LoggerHook
from torch import nn

from ...utils.errors import describe


def check_mode(key: str, mode: str) -> None:
    """Raise ValueError, naming ``key``, unless ``mode`` says when values are read."""
    if mode not in ('auto', 'immediate', 'deferred'):
        remedy = "Write 'auto', 'immediate' or 'deferred'."
        raise ValueError(describe(key, mode, 'There is no such mode.', remedy))


def is_deferred(mode: str, model: nn.Module) -> bool:
    """Return whether values are read later; ``'auto'`` does so on all but the CPU."""
    on_cpu = next(model.parameters()).device.type == 'cpu'
    return mode == 'deferred' or (mode == 'auto' and not on_cpu)


def logger_hook(runner) -> LoggerHook | None:
    """Return the run's ``LoggerHook``, if it has one."""
    return next((hook for hook in runner.hooks if isinstance(hook, LoggerHook)), None)


def is_logged(runner, batch_idx: int) -> bool:
    """Return whether ``LoggerHook`` writes a line after this training step."""
    hook = logger_hook(runner)
    if hook is None:
        return False
    if hook.every_n_inner_iters(batch_idx, hook.interval):
        return True
    loader = runner.train_dataloader
    short = not hook.ignore_last or len(loader) <= hook.interval
    return short and hook.end_of_epoch(loader, batch_idx)
