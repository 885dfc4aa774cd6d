"""Compares the images of a run with those that its teachers were trained on."""

import logging
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

from ...models.algorithms.teacher_images import TeacherView, trained_normalisation
from ...utils.errors import describe
from ...utils.model import unwrap


@HOOKS.register_module()
class TeacherImagesHook(Hook):
    """Compare channel order and size of the images with the teacher's training.

    Mean and deviation are compared where the teacher is built. This hook compares what
    the pipelines say: whether channels are reversed, if both runs load images in the
    same way, and the size of the images, of which there is a warning. A teacher whose
    checkpoint has no config is not compared. Put it into ``default_hooks``.

    Raises:
        ValueError: the teacher would see other channels than it was trained on, and its
            own config does not say so; or images are normalised in the pipeline, and
            the batch is mapped for a teacher.
    """

    def before_train(self, runner) -> None:
        """Compare the config of the run with those in the teachers' checkpoints."""
        cfg = runner.cfg
        for view in getattr(unwrap(runner.model), 'teacher_views', ()):
            _check_pipeline(view, cfg)
            if view.trained_with:
                _compare_channels(view, cfg)
                _compare_sizes(view, cfg)


def _check_pipeline(view: TeacherView, cfg: Mapping) -> None:
    """Refuse to map a batch whose images are normalised where nobody looks."""
    names = [name for name, _ in _steps(cfg)]
    if view.is_own and view.wanted != view.made and 'Normalize' in names:
        problem = 'The pipeline normalises, so the batch is not as data_preprocessor '
        problem += 'says, and cannot be mapped for the teacher.'
        remedy = 'Remove Normalize from the pipeline, and write mean and std into '
        remedy += 'data_preprocessor.'
        key = 'train_dataloader.dataset.pipeline'
        raise ValueError(describe(key, names, problem, remedy))


def _compare_channels(view: TeacherView, cfg: Mapping) -> None:
    trained, key = trained_normalisation(view.trained_with), view.key
    if trained is None or trained.to_rgb == view.wanted.to_rgb:
        return
    if not _loading(cfg) or _loading(cfg) != _loading(view.trained_with):
        return
    problem = (
        f'The teacher was trained with to_rgb={trained.to_rgb} on images that are '
    )
    problem += f'loaded in the same way ({_loading(cfg)}), and sees them with '
    problem += f'to_rgb={view.wanted.to_rgb}.'
    remedy = f'Write {key}={trained.shown()}, to which the batch is then mapped for '
    remedy += 'the teacher alone.'
    text = describe(f'{key}.to_rgb', view.wanted.to_rgb, problem, remedy)
    if not view.is_own:
        raise ValueError(text)
    print_log(text, 'current', logging.WARNING)


def _compare_sizes(view: TeacherView, cfg: Mapping) -> None:
    trained, given = _size(view.trained_with), view.size or _size(cfg)
    if trained is None or given is None or trained == given:
        return
    problem = f'The teacher was trained on images of {_spelled(trained)} pixels, and '
    problem += f'sees {_spelled(given)}.'
    remedy = f'Write {view.key}=dict(size={list(trained)}) beside what it has, if the '
    remedy += 'images are to be resized for the teacher alone.'
    text = describe(f'{view.key}.size', view.size, problem, remedy)
    print_log(text, 'current', logging.WARNING)


def _dataset(config: Mapping) -> Mapping:
    """Return the config of the training set that a wrapper holds."""
    loader = config.get('train_dataloader')
    node: Any = loader.get('dataset') if isinstance(loader, Mapping) else None
    while isinstance(node, Mapping):
        parts = node.get('datasets')
        inner = parts[0] if isinstance(parts, (list, tuple)) and parts else None
        inner = inner or node.get('dataset')
        if not isinstance(inner, Mapping):
            return node
        node = inner
    return {}


def _steps(config: Mapping) -> list[tuple[str, Mapping]]:
    """Return the steps of the training pipeline, each with the name of its type."""
    pipeline = _dataset(config).get('pipeline')
    steps = pipeline if isinstance(pipeline, (list, tuple)) else ()
    return [(_name(step), step) for step in steps if isinstance(step, Mapping)]


def _name(part: Mapping) -> str:
    """Return the name of a part's class, however its type is written."""
    kind = part.get('type')
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', repr(kind))
    return name.replace('/', '.').rpartition('.')[2]


def _loading(config: Mapping) -> str | None:
    """Return what loads the images: a step of the pipeline, or else the data set."""
    loads = [name for name, _ in _steps(config) if name.startswith('LoadImage')]
    dataset = _dataset(config)
    return loads[0] if loads else _name(dataset) if dataset else None


def _size(config: Mapping) -> tuple[int, int] | None:
    """Return height and width of the training images; None if nothing says them."""
    found = _pair(_dataset(config).get('size'))
    for name, step in _steps(config):
        if name == 'Resize' or 'Crop' in name:
            values = (step.get(key) for key in ('crop_size', 'size', 'scale'))
            pair = next(filter(None, map(_pair, values)), None)
            # mmcv's Resize takes the width first.
            turned = pair and name == 'Resize' and 'scale' in step
            found = (pair[1], pair[0]) if pair and turned else pair or found
    return found


def _pair(size: Any) -> tuple[int, int] | None:
    """Return a size as height and width; None if it is none."""
    pair = [size, size] if isinstance(size, int) else size
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        return None
    return (pair[0], pair[1]) if all(isinstance(x, int) for x in pair) else None


def _spelled(size: tuple[int, int]) -> str:
    return f'{size[0]} x {size[1]}'
