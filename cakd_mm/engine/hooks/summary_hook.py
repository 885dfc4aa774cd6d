"""Says before a training what it trains, and after it what has come out."""

import os
import shlex
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from ...tasks import task_of
from ...utils.checkpoint import scores_in
from ...utils.extract import file_of
from ...utils.model import trunk_of, unwrap
from ...utils.scores import spoken
from ...utils.terminal import shown
from ...utils.tools import as_argument, typed_here
from .counting import counts_epochs
from .extract_student_hook import ExtractStudentHook, average_is_scored

# What is said of a validation without a metric.
NO_SCORE = ', which gave no metric; a detector that finds nothing has none'


@HOOKS.register_module()
class SummaryHook(Hook):
    """Log what is trained, and at the end its scores, its files and how to use them.

    Put it into ``default_hooks`` after ``ExtractStudentHook``, whose files it names.
    ``default_hooks.summary=None`` switches it off.
    """

    # After the student has been extracted.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._began = 0.0
        # A run that is resumed with no step left may know the score of the weights
        # before the last ones alone. COCO gives none of a net that finds nothing.
        self._metrics: Mapping[str, float] | None = None

    def before_train(self, runner) -> None:
        """Log what is trained, with what and where."""
        self._began, self._metrics = time.monotonic(), None
        lines = [f'Training {_config(runner)} on {_device(runner)}:']
        lines += [f'  {name:<9}{text}' for name, text in _plan(runner)]
        runner.logger.info('\n'.join(lines))

    def after_val_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        """Note which scores are those of this start."""
        self._metrics = metrics or {}

    def after_train(self, runner) -> None:
        """Log what has come out."""
        took = timedelta(seconds=round(time.monotonic() - self._began))
        lines = [f'Trained {_config(runner)}, {_length(runner)} in {took}:']
        results = _results(runner, self._metrics)
        lines += [f'  {name:<11}{text}' for name, text in results]
        runner.logger.info('\n'.join(lines))


def _config(runner) -> str:
    file = file_of(runner.cfg)
    return 'a config in Python' if file is None else shown(file)


def _device(runner) -> str:
    """Return what computes: kind of device, number of ranks, threads of a CPU."""
    device = next(runner.model.parameters()).device.type
    text = device
    if device == 'cpu':
        threads = torch.get_num_threads()
        text += f' with {threads} thread{"s" if threads > 1 else ""}'
    return f'{text}, {runner.world_size} ranks' if runner.world_size > 1 else text


def _length(runner) -> str:
    """Return how long the training is."""
    is_by_epoch = counts_epochs(runner)
    count = runner.max_epochs if is_by_epoch else runner.max_iters
    unit = 'epoch' if is_by_epoch else 'iteration'
    return f'{count:,} {unit}{"s" if count != 1 else ""}'


def _name(net: Any) -> str:
    """Return the class of what makes a net's features, of several nets of each.

    A net that scores positions is told by its own class and its head, too.
    """
    if hasattr(net, 'teachers'):
        return ' and '.join(map(_name, net.teachers.values()))
    trunk, task = type(trunk_of(net)).__name__, task_of(net)
    if not task.is_dense:
        return trunk
    head = task.head_of(net)
    end = '' if head is None else f' and {type(head).__name__}'
    return f'{type(net).__name__} of {trunk}{end}'


def _size(net: nn.Module) -> str:
    count = sum(weight.numel() for weight in net.parameters())
    return f'{_name(net)}, {count:,} parameters'


def _losses(model: Any) -> Iterator[str]:
    """Yield names and classes of the losses between teacher and student."""
    distiller = getattr(model, 'distiller', None)
    for name, loss in getattr(distiller, 'distill_losses', {}).items():
        yield f'{name} ({type(loss).__name__})'


def _plan(runner) -> Iterator[tuple[str, str]]:
    model = unwrap(runner.model)
    if hasattr(model, 'teacher'):
        yield 'student', _size(model.student)
        yield 'teacher', _size(model.teacher)
        yield 'losses', ', '.join(_losses(model)) or 'none between the two'
    else:
        yield 'net', _size(model)
    yield 'images', _images(runner)
    start = f', goes on after step {runner.iter}' if runner.iter else ''
    yield 'length', f'{_length(runner)}{start}'
    yield 'work dir', shown(runner.work_dir)


def _images(runner) -> str:
    """Return how many images train and validate, where sets know it."""
    parts = []
    for loop, purpose in (
        (runner.train_loop, 'training'),
        (runner.val_loop, 'validation'),
    ):
        dataset: Any = getattr(getattr(loop, 'dataloader', None), 'dataset', None)
        if hasattr(dataset, '__len__'):
            parts.append(f'{len(dataset):,} for {purpose}')
    return ', '.join(parts) or 'of unknown number'


def _results(runner, metrics: Mapping[str, float] | None) -> Iterator[tuple[str, str]]:
    """Yield what has come out, and what may be typed next in the current folder."""
    model = unwrap(runner.model)
    if hasattr(model, 'teacher'):
        losses = ', '.join(_losses(model)) or 'no loss between the two'
        text = f'{_name(model.student)}, taught by {_name(model.teacher)}'
        yield 'student', f'{text} with {losses}'
    if metrics:
        yield 'last', ', '.join(spoken(scores_in(runner.message_hub.log_scalars)))
    else:
        yield 'last', f'not scored by validation{"" if metrics is None else NO_SCORE}'
    info, folder = runner.message_hub.runtime_info, Path(runner.work_dir)
    best = info.get('best_score')
    if isinstance(best, float):
        yield 'best', f'{best:.2f}, chosen by the validation set'
    extracts = any(isinstance(hook, ExtractStudentHook) for hook in runner.hooks)
    is_extracted = extracts and hasattr(model, 'teacher')
    if is_extracted:
        name = 'student_ema' if average_is_scored(runner) else 'student'
        plain, config = folder / f'{name}.pth', folder / f'{name}.py'
    else:
        # mmengine has written the config there, with all options.
        plain, config = (
            Path(info.get('last_ckpt') or folder / 'none'),
            folder / os.path.basename(runner.cfg.filename or ''),
        )
    if plain.is_file() and config.is_file():
        names = [as_argument(Path(shown(x))) for x in (config, plain)]
        files = ' '.join(map(shlex.quote, names))
        yield 'file', shown(plain)
        yield (
            'in Python',
            task_of(getattr(model, 'student', model)).loading(*map(str, names)),
        )
        yield 'score it', f'{typed_here("test")} {files}'
        if not is_extracted:
            text = f'model.teacher_ckpt={names[1]}'
            yield 'teach with', f'--cfg-options {shlex.quote(text)}'
    work_dir = shlex.quote(as_argument(Path(shown(folder))))
    # `plot` draws what is distilled, and refuses a run that distils nothing.
    tool = 'plot' if hasattr(model, 'teacher') else 'report'
    yield 'curves', f'{typed_here(tool)} {work_dir}'
