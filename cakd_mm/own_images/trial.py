"""Nets and pairs tried on a few random images, before hours are spent on them."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmpretrain.models import BaseClassifier
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor

from ..models.algorithms.teacher import build_net
from ..models.losses.base import losses_of
from ..models.taps import count_name
from ..utils.errors import describe, start_of
from ..utils.net_names import NamedNet, with_classes
from ..utils.random_states import torch_states_kept

IMAGES = 4


@contextmanager
def _trial() -> Iterator[None]:
    """Build nets without a word, and let later training draw the numbers it would."""
    loggers = [MMLogger.get_current_instance(), logging.getLogger('transformers')]
    levels = [logger.level for logger in loggers]
    scope = DefaultScope.overwrite_default_scope('mmpretrain')
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with torch_states_kept(), scope, torch.no_grad():
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def built_quietly(named: NamedNet, key: str, classes: int) -> BaseModel:
    """Build a net for a number of classes.

    Raises:
        ValueError: it is no classifier, or cannot be built.
    """
    with _trial():
        built = build_net(with_classes(named.net, classes), key)
    if not isinstance(built, BaseClassifier):
        problem = f'It is no classifier, but a {type(built).__name__}.'
        remedy = 'Name the config of an image classifier.'
        raise ValueError(describe(key, named.name, problem, remedy))
    return built


def try_net(
    net: BaseModel, named: NamedNet, key: str, sizes: Sequence[int], classes: int
) -> int:
    """Let a net score images, and return the first size of these that it takes.

    Args:
        net (BaseModel): The net.
        named (NamedNet): As the person named it, for errors.
        key (str): The option that did so, for errors.
        sizes (Sequence[int]): Of the images, in pixels.
        classes (int): How many classes it has to score; 0 if it has no classifier.

    Raises:
        ValueError: it does not take such images, or scores another number of classes.
    """
    errors: list[Exception] = []
    for size in sizes:
        try:
            with _trial():
                scores = net.eval()(torch.rand(2, 3, size, size))
        except Exception as error:  # whatever the net's own code raises
            errors.append(error)
            continue
        if classes and isinstance(scores, Tensor) and scores.shape[-1] != classes:
            scored = scores.shape[-1]
            problem = f'It scores {scored} classes, and the images have {classes}.'
            remedy = f'Write {count_name(net)}={classes} into its config, or name '
            remedy += 'another net.'
            raise ValueError(describe(key, named.name, problem, remedy))
        return size
    cause = start_of(errors[0], 200)
    problem = f'It does not take images of {sizes[0]} pixels: {cause}.'
    remedy = f'Write another --size, {named.size or 224} say, or another net.'
    raise ValueError(describe(key, named.name, problem, remedy)) from errors[0]


def try_pair(file: Path, size: int, classes: int) -> None:
    """Compute the losses of a student's config once.

    A teacher that is still to be trained has random weights. A loss that has to know
    all images is not computed.

    Args:
        file (Path): The config.
        size (int): Of the images, in pixels.
        classes (int): How many there are.

    Raises:
        ValueError: a loss compares several views of each image.
        Exception: what training would stop with.
    """
    cfg = Config.fromfile(file)
    model = cfg.model
    if not Path(model.teacher_ckpt).is_file():
        model.update(teacher_ckpt=None, allow_random_teacher=True)
    model.data_preprocessor = cfg.data_preprocessor
    with _trial():
        built = MODELS.build(model)
        losses = losses_of(built)
        if any(loss.needs_dataset for loss in losses):
            return
        for loss in losses:
            if loss.views > 1:
                problem = f'It compares {loss.views} views of each image, and data.py '
                problem += 'makes one.'
                remedy = 'Make them in student.py, see the guide "Two views".'
                key = 'model.distiller.distill_losses'
                raise ValueError(describe(key, loss.class_name, problem, remedy))
            if loss.needs_epoch:
                loss.set_epoch(0)
        images = [torch.randint(256, (3, size, size)).byte() for _ in range(IMAGES)]
        samples = [DataSample().set_gt_label(i % classes) for i in range(IMAGES)]
        batch = dict(inputs=torch.stack(images), data_samples=samples)
        built.train()(**built.data_preprocessor(batch, True), mode='loss')
