"""Loads the teacher, and checks that it agrees with the student."""

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmrazor.registry import MODELS
from torch import nn

from ...utils.arguments import check_part, require_part
from ...utils.building import build_part, naming_use, places_of, settings_of
from ...utils.checkpoint import (
    hash_of,
    is_remote,
    last_scores,
    load_strictly,
    model_weights,
    read_checkpoint,
    require_file,
    spell_out,
)
from ...utils.class_names import names_in_checkpoint
from ...utils.errors import describe
from ...utils.net_config import net_config
from ...utils.tools import as_typed_here

# What weights may not fit.
NET_PARTS = (
    'model.teacher.backbone, model.teacher.neck or model.teacher.head '
    '(head.in_channels, head.num_classes)'
)


def made_by(command: str | None) -> str:
    """Return the sentence that names the command, or nothing without a command."""
    if not command:
        return ''
    return f' It is made by: {as_typed_here(command)} (model.teacher_from)'


def build_teacher(
    teacher: dict | BaseModel, checkpoint: str | None, command: str
) -> BaseModel:
    """Build the teacher and give it its weights.

    Args:
        teacher: Its config, or the built model.
        checkpoint: Path or URL of its weights; None initialises it instead.
        command: The sentence of :func:`made_by`.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is missing, unreadable or
            does not fit.
    """
    key = 'model.teacher_ckpt'
    remedy = command.strip() or 'Give a checkpoint of exactly this teacher.'
    remedy_of_net = f'{remedy} Or correct {NET_PARTS}.'
    if checkpoint is not None:
        require_file(checkpoint, key, remedy)
    if isinstance(teacher, dict):
        teacher = build_net(net_config(teacher, 'model.teacher'), 'model.teacher')
    if checkpoint is None:
        teacher.init_weights()
        text = 'The teacher has random weights (allow_random_teacher=True): it knows '
        text += 'nothing to teach, which is right for trials of speed alone.'
        print_log(text, 'current', logging.WARNING)
        return teacher
    content = read_checkpoint(checkpoint, key, remedy)
    load_strictly(teacher, model_weights(content), key, checkpoint, remedy_of_net)
    teacher.class_names = names_in_checkpoint(content)
    print_log(_introduce(teacher, checkpoint, content), 'current')
    return teacher


def build_net(net: dict, key: str) -> BaseModel:
    """Build a net; name the key of what does not work in its config.

    Raises:
        TypeError: its class does not take a key or its value, or is no whole model.
        KeyError: there is no class of its type.
        ValueError: a part of it cannot be built.
    """
    require_part(net, key)
    check_part(net, MODELS, key, only=('mmpretrain.models.classifiers.', 'cakd_mm.'))
    built = build_part(net, MODELS, key)
    if not isinstance(built, BaseModel):
        problem = 'It is a part of a model, and no model.'
        remedy = "Write type='ImageClassifier' with backbone, neck and head, say."
        raise TypeError(describe(f'{key}.type', net['type'], problem, remedy))
    return built


def naming_net(net: nn.Module, key: str) -> AbstractContextManager[None]:
    """Let errors of running a net name the key of the part that does not fit.

    Args:
        net (nn.Module): The net.
        key (str): The key of its config.
    """
    return naming_use(type(net).__name__, key, '...', partial(_places, net, key))


def _places(net: nn.Module, key: str) -> dict[str, tuple[str, Any]]:
    """Return what an error of a net may be about: its parts, and the head's widths."""
    parts = {name: getattr(net, name, None) for name in ('backbone', 'neck', 'head')}
    kinds = {name: part and type(part).__name__ for name, part in parts.items()}
    return places_of(kinds, key) | settings_of(parts['head'], f'{key}.head')


def _introduce(teacher: BaseModel, checkpoint: str, content: Mapping) -> str:
    """Return the line of the log about a teacher that has been loaded."""
    parts = [f'The teacher is {checkpoint}']
    if not is_remote(checkpoint):
        parts.append(f'SHA-256 {hash_of(Path(checkpoint).expanduser())}')
    classes = _classes(teacher)
    if classes is not None:
        parts.append(f'{classes} classes')
    scores = last_scores(content)
    if scores:
        parts.append(f'its run had last scored {", ".join(spell_out(scores))}')
    return '; '.join(parts)


def _classes(model: nn.Module) -> int | None:
    return getattr(getattr(model, 'head', None), 'num_classes', None)


def check_classes(teacher: nn.Module, student: nn.Module) -> None:
    """Raise ValueError unless teacher and student score as many classes."""
    theirs, ours = _classes(teacher), _classes(student)
    if None not in (theirs, ours) and theirs != ours:
        key = 'model.architecture.head.num_classes'
        problem = f'The teacher scores {theirs} classes.'
        remedy = f'Give model.teacher.head.num_classes and {key} the same value.'
        raise ValueError(describe(key, ours, problem, remedy))


def check_preprocessing(teacher: nn.Module, shared: nn.Module) -> None:
    """Raise ValueError if the teacher's config has another normalisation."""
    preprocessor = getattr(teacher, 'data_preprocessor', None)
    if preprocessor is None or not getattr(preprocessor, '_enable_normalize', False):
        return
    theirs, ours = _normalisation(preprocessor), _normalisation(shared)
    if theirs != ours:
        problem = f'Teacher and student share one preprocessed batch, made with {ours}.'
        remedy = 'Use the same mean, std and to_rgb for both (data_preprocessor).'
        key = 'model.teacher.data_preprocessor'
        raise ValueError(describe(key, theirs, problem, remedy))


def check_batch_augments(
    student: nn.Module, shared: nn.Module, written: Mapping | None = None
) -> None:
    """Raise ValueError if the student has batch augmentations and the batches do not.

    Otherwise mixup in the student's own config would silently never happen.

    Args:
        student (nn.Module): The student.
        shared (nn.Module): The preprocessor that makes the batches.
        written (Mapping, optional): The student's config. Defaults to None (unknown).
    """
    preprocessor = getattr(student, 'data_preprocessor', None)
    asks = preprocessor is not shared and getattr(preprocessor, 'batch_augments', None)
    if not asks or getattr(shared, 'batch_augments', None):
        return
    written = written or {}
    asked = (written.get('data_preprocessor') or {}).get('batch_augments')
    asked = asked or written.get('train_cfg') or {}
    # Plain dicts and lists, so that the remedy can be copied into a config.
    form = ConfigDict(asked).to_dict() or {'augments': ['...']}
    problem = 'Batches are made by `data_preprocessor`, which has none.'
    remedy = 'Move it to data_preprocessor.batch_augments: write '
    remedy += f'data_preprocessor=dict(batch_augments={form!r}).'
    key = 'model.architecture.train_cfg.augments'
    raise ValueError(describe(key, form['augments'], problem, remedy))


def _normalisation(preprocessor: nn.Module) -> dict[str, Any]:
    values: dict[str, Any] = {'to_rgb': bool(getattr(preprocessor, 'to_rgb', False))}
    for name in ('mean', 'std'):
        value = getattr(preprocessor, name, None)
        values[name] = None if value is None else value.flatten().tolist()
    return values
