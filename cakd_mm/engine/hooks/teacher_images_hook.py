"""Compares the images of a run with those that its teachers were trained on."""

import logging
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from torch import Tensor

from ...datasets.views import images_in
from ...models.algorithms.teacher_images import TeacherView
from ...utils.errors import describe
from ...utils.model import unwrap
from ...utils.training_images import loading, name_of, size_of, training_set


@HOOKS.register_module()
class TeacherImagesHook(Hook):
    """Compare channel order and size of the images with the teacher's training.

    Mean and deviation are compared where the teacher is built. This hook compares
    whether channels are reversed, if both runs load images in the same way, and the
    size of the first image with that of the teacher's training, of which there is a
    warning. A teacher whose checkpoint has no config is not compared. Put it into
    ``default_hooks``.

    Raises:
        ValueError: the teacher would see other channels than it was trained on, and its
            own config does not say so; or images are normalised in the pipeline, and
            the batch is mapped for a teacher.
    """

    def __init__(self) -> None:
        self._is_compared = False

    def before_train(self, runner) -> None:
        """Compare the config of the run with those in the teachers' checkpoints."""
        cfg = runner.cfg
        for view in getattr(unwrap(runner.model), 'teacher_views', ()):
            _check_pipeline(view, cfg)
            if view.trained_with:
                _compare_channels(view, cfg)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Compare the size of the first batch with that of the teachers' training."""
        if self._is_compared:
            return
        self._is_compared = True
        given = _size_in(data_batch)
        for view in getattr(unwrap(runner.model), 'teacher_views', ()):
            if given is not None:
                _compare_sizes(view, given)


def _check_pipeline(view: TeacherView, cfg: Mapping) -> None:
    """Refuse to map a batch whose images are normalised where nobody looks."""
    names = [name_of(step) for step in training_set(cfg)[1] or ()]
    if view.is_own and view.wanted != view.made and 'Normalize' in names:
        problem = 'The pipeline normalises, so the batch is not as data_preprocessor '
        problem += 'says, and cannot be mapped for the teacher.'
        remedy = 'Remove Normalize from the pipeline, and write mean and std into '
        remedy += 'data_preprocessor.'
        key = 'train_dataloader.dataset.pipeline'
        raise ValueError(describe(key, names, problem, remedy))


def _compare_channels(view: TeacherView, cfg: Mapping) -> None:
    trained, key = view.trained, view.key
    if trained is None or trained.to_rgb == view.wanted.to_rgb:
        return
    if not loading(cfg) or loading(cfg) != loading(view.trained_with):
        return
    problem = (
        f'The teacher was trained with to_rgb={trained.to_rgb} on images that are '
    )
    problem += f'loaded in the same way ({loading(cfg)}), and sees them with '
    problem += f'to_rgb={view.wanted.to_rgb}.'
    remedy = f'Write {key}={trained.shown()}, to which the batch is then mapped for '
    remedy += 'the teacher alone.'
    text = describe(f'{key}.to_rgb', view.wanted.to_rgb, problem, remedy)
    if not view.is_own:
        raise ValueError(text)
    print_log(text, 'current', logging.WARNING)


def _compare_sizes(view: TeacherView, given: tuple[int, int]) -> None:
    trained, given = size_of(view.trained_with), view.size or given
    if trained is None or trained == given:
        return
    problem = f'The teacher was trained on images of {_spelled(trained)} pixels, and '
    problem += f'sees {_spelled(given)}.'
    remedy = f'Write {view.key}=dict(size={list(trained)}) beside what it has, if the '
    remedy += 'images are to be resized for the teacher alone.'
    text = describe(f'{view.key}.size', view.size, problem, remedy)
    print_log(text, 'current', logging.WARNING)


def _size_in(batch: Any) -> tuple[int, int] | None:
    """Return height and width of the first image of a batch; None if it has none."""
    has_images = isinstance(batch, Mapping) and 'inputs' in batch
    images = images_in(batch) if has_images else None
    if not isinstance(images, (Tensor, list, tuple)) or not len(images):
        return None
    first = images[0]
    if not isinstance(first, Tensor) or first.dim() != 3:
        return None
    return first.shape[1], first.shape[2]


def _spelled(size: tuple[int, int]) -> str:
    return f'{size[0]} x {size[1]}'
