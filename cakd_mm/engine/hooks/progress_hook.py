"""Shows a terminal how far a run has come."""

import atexit
import logging
import sys
import time
from datetime import timedelta
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from rich.progress import BarColumn, Progress, TextColumn

from ...utils.scores import spoken
from ...utils.terminal import (
    ABOUT_STEPS,
    Terminal,
    is_from,
    is_read_along,
    stream_handlers,
)
from .counting import counts_epochs

REDRAWN = 0.1  # seconds between two drawings of the bar
# Of a loss, the mean over an epoch is shown, or over so many of its last steps, because
# `BoundedHistoryHook` keeps no more.
STEPS = 1000


@HOOKS.register_module()
class ProgressHook(Hook):
    """Show a progress bar with the time left, and one line for each epoch.

    A run by iterations has a line for each validation. The hook does so where stdout is
    a terminal, on the first rank. Elsewhere it does nothing, so that a file or a pipe
    gets mmengine's plain lines. In a terminal these are left out where the bar or the
    epoch's line says the same; they are in the log file. Other lines and warnings
    appear above the bar. Losses are those that have been read from the device already.
    An epoch's line has their means, its scores and its time.
    ``default_hooks.progress=None`` switches the hook off.
    """

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._redirected: list[tuple[logging.StreamHandler, Any]] = []
        self._drawn = 0.0
        self._is_within_epoch = False
        # When the first step of this process had ended, and which it was. It is left
        # out, because it may compile the model.
        self._first: tuple[float, int] | None = None
        self._began = 0.0
        self._scored_since = 0.0
        # What the line of an epoch says before its scores are known.
        self._line: str | None = None

    def before_train(self, runner) -> None:
        """Begin to show how far the training is."""
        self._first, self._began = None, time.monotonic()
        self._start(runner)

    def before_test(self, runner) -> None:
        """Begin to show how far the test is."""
        self._start(runner)

    def before_train_epoch(self, runner) -> None:
        """Note when the epoch has begun."""
        self._print_line()
        self._began = time.monotonic()

    def after_train_iter(
        self, runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        """Draw the bar."""
        if self._progress is None:
            return
        now, done = time.monotonic(), runner.iter + 1
        if self._first is None:
            self._first = now, done
        what, step, steps = 'iterations', done, runner.max_iters
        by_epoch = counts_epochs(runner)
        if by_epoch:
            what = _epoch(runner, runner.epoch + 1)
            step, steps = batch_idx + 1, len(runner.train_dataloader)
        is_scored = not by_epoch and _is_scored(runner, done)
        self._is_within_epoch = step < steps and not is_scored
        start, first = self._first
        left = None
        if done > first:
            left = (now - start) / (done - first) * (runner.max_iters - done)
        self._draw(what, step, steps, left)

    def after_train_epoch(self, runner) -> None:
        """Make the line of the epoch."""
        if self._progress is not None and counts_epochs(runner):
            steps = len(runner.train_dataloader)
            self._line = f'{_epoch(runner, runner.epoch + 1)}  {_losses(runner, steps)}'

    def before_val_epoch(self, runner) -> None:
        """Make the line, if it is not that of an epoch that has just been trained."""
        self._scored_since = time.monotonic()
        if self._progress is None or self._line is not None:
            return
        if counts_epochs(runner):  # A run that is resumed may begin with a score.
            self._line = _epoch(runner, runner.epoch)
        else:
            losses = _losses(runner, runner.val_interval)
            self._line = f'iteration {runner.iter}/{runner.max_iters}  {losses}'

    def before_test_epoch(self, runner) -> None:
        """Note when the test has begun."""
        self._scored_since = time.monotonic()

    def after_val_iter(
        self, runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Draw the bar."""
        self._draw_scoring('validation', batch_idx + 1, len(runner.val_dataloader))

    def after_test_iter(
        self, runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Draw the bar."""
        self._draw_scoring('test', batch_idx + 1, len(runner.test_dataloader))

    def after_val_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        """Print the line of the epoch with its scores."""
        self._print_line(metrics)

    def after_test_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        """Print the scores."""
        images = f'{len(runner.test_dataloader.dataset):,} images'
        self._line = f'Test on {images}:' if self._progress is not None else None
        self._print_line(metrics, timed=False)

    def after_train(self, runner) -> None:
        """End the bar, whose place the last lines take."""
        self._print_line()
        self._stop()

    def after_run(self, runner) -> None:
        """End the bar."""
        self._stop()

    def _start(self, runner) -> None:
        if self._progress is not None or not is_read_along():
            return
        self._progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(bar_width=None),
            TextColumn('{task.completed}/{task.total}'),
            TextColumn('{task.fields[left]}'),
            console=Terminal(),
            # A thread that draws would be in the middle of it when workers are forked.
            auto_refresh=False,
            transient=True,
            expand=True,
        )
        self._progress.add_task('', total=None, left='', visible=False)
        self._progress.start()
        atexit.register(self._stop)  # An error calls no hook.
        for handler in stream_handlers(runner.logger):
            self._redirected.append((handler, handler.stream))
            handler.addFilter(self._is_shown)
            handler.setStream(sys.stdout)  # which now writes above the bar

    def _stop(self) -> None:
        if self._progress is None:
            return
        for handler, stream in self._redirected:
            handler.setStream(stream)
            handler.removeFilter(self._is_shown)
        self._redirected.clear()
        self._progress.stop()
        self._progress = None
        atexit.unregister(self._stop)

    def _is_shown(self, record: logging.LogRecord) -> bool:
        """Return whether neither the bar nor an epoch's line says what a record says.

        Those are the lines within an epoch, or before a validation, that
        ``default_hooks.logger.interval`` asks for, and what is not mmengine's.
        """
        if not is_from(record, ABOUT_STEPS):
            return True
        is_step = record.funcName == 'after_train_iter' and '(train)' in record.msg
        return is_step and self._is_within_epoch

    def _draw_scoring(self, what: str, step: int, steps: int) -> None:
        passed = time.monotonic() - self._scored_since
        self._draw(what, step, steps, passed / step * (steps - step))

    def _draw(self, what: str, step: int, steps: int, left: float | None) -> None:
        now = time.monotonic()
        if self._progress is None or (step < steps and now - self._drawn < REDRAWN):
            return
        self._drawn = now
        text = '' if left is None else f'{timedelta(seconds=round(left))} left'
        [task] = self._progress.task_ids
        self._progress.update(
            task, description=what, completed=step, total=steps, left=text, visible=True
        )
        self._progress.refresh()

    def _print_line(
        self, scores: dict[str, float] | None = None, timed: bool = True
    ) -> None:
        line, self._line = self._line, None
        if line is None or self._progress is None:
            return
        parts = [line]
        if scores:
            numbers = {k: v for k, v in scores.items() if isinstance(v, (int, float))}
            parts.append(', '.join(spoken(numbers)))
        if timed:
            seconds = time.monotonic() - self._began
            took = f'{seconds:.1f} s'
            parts.append(took if seconds < 60 else f'{timedelta(seconds=int(seconds))}')
        self._progress.console.print('  '.join(parts))
        self._began = time.monotonic()


def _is_scored(runner, done: int) -> bool:
    """Return whether a run by iterations is scored after so many."""
    is_due = done >= runner.val_begin and done % runner.val_interval == 0
    return runner.val_loop is not None and is_due


def _epoch(runner, epoch: int) -> str:
    """Return an epoch and how many there are, with the same width for all."""
    most = runner.max_epochs
    return f'epoch {epoch:>{len(str(most))}}/{most}'


def _losses(runner, steps: int) -> str:
    """Return the means of the losses over the last steps, the sum first."""
    means = {
        name.removeprefix('train/'): history.mean(min(steps, STEPS))
        for name, history in runner.message_hub.log_scalars.items()
        if name.startswith('train/') and 'loss' in name and len(history.data[0])
    }
    total = means.pop('loss', None)
    parts = [
        f'{name.removeprefix("distill.").removesuffix(".loss")} {mean:.4g}'
        for name, mean in means.items()
    ]
    text = 'loss' if total is None else f'loss {total:.4g}'
    return f'{text} ({", ".join(parts)})' if parts else text
