"""When a line is logged."""

from mmengine.hooks import LoggerHook


def logger_hook(runner) -> LoggerHook | None:
    """Return the run's ``LoggerHook``, if it has one."""
    return next((hook for hook in runner.hooks if isinstance(hook, LoggerHook)), None)


def is_logged(runner, hook: LoggerHook | None, batch_idx: int) -> bool:
    """Whether ``LoggerHook`` writes a line after this training step."""
    if hook is None:
        return False
    if hook.every_n_inner_iters(batch_idx, hook.interval):
        return True
    loader = runner.train_dataloader
    short = not hook.ignore_last or len(loader) <= hook.interval
    return short and hook.end_of_epoch(loader, batch_idx)
