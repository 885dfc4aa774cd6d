"""Loads the teacher, and checks that it agrees with the student."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...tasks import task_of_config
from ...utils.arguments import check_part, require_part
from ...utils.building import build_part
from ...utils.checkpoint import (
    fingerprint,
    hash_of,
    is_remote,
    load_strictly,
    logged_scores,
    model_weights,
    own_scores,
    read_checkpoint,
    require_file,
    spell_out,
)
from ...utils.class_names import names_in_checkpoint, names_in_net
from ...utils.config_text import values_in
from ...utils.errors import describe
from ...utils.net_config import net_config
from ...utils.tools import as_typed_here
from ..taps import classes_key, classes_of, gives_scores
from .teacher_classes import ClassNames, choose_classes
from .teacher_entries import Keys, TeacherEntry
from .teacher_images import read_size


@dataclass
class Teacher:
    """A teacher that is built and has its weights.

    Args:
        entry (TeacherEntry): What the config says.
        keys (Keys): Where it says it.
        net (BaseModel): The teacher.
        size (tuple[int, int], optional): What its images are resized to.
        trained_with (dict): Values of the config in its checkpoint, if there is one.
        gives_scores (bool): Whether it has a classifier. Otherwise only its features
            teach.
        class_names (ClassNames): What it calls its classes.
        sha256 (Tensor): Of its weights as in the checkpoint, (32,) uint8; zeros
            without one.
    """

    entry: TeacherEntry
    keys: Keys
    net: BaseModel
    size: tuple[int, int] | None = None
    trained_with: dict[str, Any] = field(default_factory=dict)
    gives_scores: bool = True
    class_names: ClassNames = field(default_factory=ClassNames)
    sha256: Tensor = field(default_factory=lambda: torch.zeros(32, dtype=torch.uint8))


def made_by(command: str | None, key: str = Keys.made_by) -> str:
    """Return the sentence that names the command, or nothing without a command."""
    if not command:
        return ''
    return f' It is made by: {as_typed_here(command)} ({key})'


def build_teacher(entry: TeacherEntry, keys: Keys) -> Teacher:
    """Build a teacher, give it its weights and let it score the wanted classes.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is missing, unreadable or
            does not fit, or it has not the wanted classes.
    """
    command = made_by(entry.made_by, keys.made_by)
    remedy = command.strip() or 'Give a checkpoint of exactly this teacher.'
    if entry.ckpt is not None:
        require_file(entry.ckpt, keys.ckpt, remedy)
    size = None
    net = entry.net
    if isinstance(net, dict):
        net = net_config(net, keys.net)
        if entry.name is not None:  # a list replaces the base's teacher and its scope
            net.setdefault('_scope_', task_of_config(net).scope)
        resizes = task_of_config(net).resizes_for_teacher
        if resizes and isinstance(net.get('data_preprocessor'), dict):
            size = read_size(net.data_preprocessor.pop('size', None), keys.images)
        net = build_net(net, keys.net)
    built = Teacher(entry, keys, net, size, gives_scores=gives_scores(net))
    if not built.gives_scores:
        _refuse_choice(entry, keys)
    names = own_names = None
    if entry.ckpt is None:
        net.init_weights()
        text = 'The teacher has random weights (allow_random_teacher=True): it knows '
        text += 'nothing to teach, which is right for trials of speed alone.'
        print_log(text, 'current', logging.WARNING)
    else:
        content = read_checkpoint(entry.ckpt, keys.ckpt, remedy)
        weights = model_weights(content)
        wrong = f'{remedy} Or correct {_parts_of(net, keys.net)}.'
        load_strictly(net, weights, keys.ckpt, entry.ckpt, wrong)
        built.sha256 = fingerprint(net.state_dict())
        print_log(_introduce(built, entry.ckpt, content), 'current')
        if built.gives_scores:
            names = names_in_checkpoint(content)
            own_names = names_in_net(net)
        meta = content.get('meta')
        meta = meta if isinstance(meta, Mapping) else {}
        # MMCV's runner called it otherwise.
        built.trained_with = values_in(meta.get('cfg', meta.get('config')))
    if entry.classes is not None:
        names = names or own_names
        built.class_names = choose_classes(net, entry.classes, names, keys.classes)
        print_log(_chosen(built.class_names, keys.classes), 'current')
    elif names is not None:
        built.class_names = ClassNames(names)
    elif own_names is not None:
        # They may be another spelling of the data's, since no set of images gave them.
        built.class_names = ClassNames(own_names, own_names)
    built.class_names = replace(
        built.class_names, keys=keys, file=str(entry.ckpt or 'a random teacher')
    )
    return built


def _parts_of(net: nn.Module, key: str) -> str:
    """Say which keys of a net's config may be wrong if weights do not fit it."""
    if not hasattr(net, 'backbone'):
        return f'what {key} says of the net ({classes_key(net, key)}, say)'
    parts = f'{key}.backbone, {key}.neck or {key}.head'
    return f'{parts} (head.in_channels, head.num_classes)'


def _refuse_choice(entry: TeacherEntry, keys: Keys) -> None:
    """Raise ValueError if a teacher without a classifier is to score."""
    for value, key in ((entry.classes, keys.classes), (entry.weight, keys.weight)):
        if value is not None:
            problem = f'{keys.net} has no classifier, so that only its features teach.'
            remedy = 'Remove the key, or give that net a classifier.'
            raise ValueError(describe(key, value, problem, remedy))


def _chosen(classes: ClassNames, key: str) -> str:
    """Return the line of the log about the classes that were chosen."""
    places = classes.places or ()
    names = classes.scored or (None,) * len(places)
    pairs = zip(places, names, strict=True)
    each = [str(x) if name is None else f'{x} ({name})' for x, name in pairs]
    text = "The teacher's classes that teach those of the student, in its order"
    return f'{text}: {", ".join(each)} ({key})'


def build_net(net: dict, key: str) -> BaseModel:
    """Build a net; name the key of what does not work in its config.

    Raises:
        TypeError: its class does not take a key or its value, or is no whole model.
        KeyError: there is no class of its type.
        ValueError: a part of it cannot be built.
    """
    require_part(net, key)
    task = task_of_config(net)
    check_part(net, MODELS, key, only=('mmpretrain.models.classifiers.', 'cakd_mm.'))
    built = build_part(net, MODELS, key)
    if not isinstance(built, BaseModel):
        problem = 'It is a part of a model, and no model.'
        remedy = f'Write {task.example}, say.'
        raise TypeError(describe(f'{key}.type', net['type'], problem, remedy))
    return built


def _introduce(teacher: Teacher, checkpoint: str, content: Mapping) -> str:
    """Return the line of the log about a teacher that has been loaded."""
    name = f' {teacher.entry.name!r}' if teacher.entry.name else ''
    parts = [f'The teacher{name} is {checkpoint}']
    if not is_remote(checkpoint):
        parts.append(f'SHA-256 {hash_of(Path(checkpoint).expanduser())}')
    classes = classes_of(teacher.net)
    if classes is not None:
        parts.append(f'{classes} classes')
    if scores := own_scores(content):
        parts.append(f'it scored {", ".join(spell_out(scores))}')
    elif scores := logged_scores(content):
        before = 'before this file was written, its run had last scored'
        parts.append(f'{before} {", ".join(spell_out(scores))}')
    return '; '.join(parts)


def check_classes(teacher: Teacher, student: nn.Module) -> None:
    """Raise ValueError unless teacher and student score as many classes."""
    theirs, ours = classes_of(teacher.net), classes_of(student)
    if None in (theirs, ours) or theirs == ours:
        return
    key, keys = classes_key(student, 'model.architecture'), teacher.keys
    if teacher.entry.classes is not None:
        problem = f'It names {theirs} classes, and the student scores {ours} ({key}).'
        remedy = 'Write one for each class of the student, in its order.'
        value = list(teacher.entry.classes)
        raise ValueError(describe(keys.classes, value, problem, remedy))
    problem = f'The teacher scores {theirs} classes.'
    remedy = f'Give {classes_key(teacher.net, keys.net)} and {key} the same value; of '
    remedy += 'a teacher that knows other classes too, choose some with '
    remedy += f'{keys.classes}=[...]. If only its features are to teach, leave its '
    remedy += f'classifier out: {_without_classifier(teacher.net, keys.net)}.'
    raise ValueError(describe(key, ours, problem, remedy))


def _without_classifier(net: nn.Module, key: str) -> str:
    """Return what to write for a net without its classifier."""
    if getattr(net, 'head', None) is not None:
        return f'{key}.head=None'
    if hasattr(getattr(net, 'model', None), 'config'):  # of Hugging Face
        return f"{key}.type='HuggingFaceBackbone', which has no number of classes"
    return f'{classes_key(net, key)}=0'


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
