"""A teacher with its weights, and what has to agree with the student."""

from mmengine.model import BaseModel
from mmrazor.registry import MODELS
from torch import nn

from ...utils.checkpoint import (
    load_strictly,
    model_weights,
    read_checkpoint,
    require_file,
)
from ...utils.errors import describe


def made_by(command: str | None) -> str:
    """Return the sentence that names the command, empty without one."""
    return f' It is made by: {command}' if command else ''


def build_teacher(
    teacher: dict | BaseModel, checkpoint: str | None, command: str
) -> BaseModel:
    """Build the teacher and give it its weights.

    Args:
        teacher: Its config, or the built model.
        checkpoint: Path or URL of its weights; None initialises it instead.
        command: What makes the checkpoint, see :func:`made_by`.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is missing, unreadable or
            does not fit.
    """
    key = 'model.teacher_ckpt'
    remedy = command.strip() or 'Give a checkpoint of exactly this teacher.'
    if checkpoint is not None:
        require_file(checkpoint, key, remedy)
    if isinstance(teacher, dict):
        teacher = MODELS.build(teacher)
    if checkpoint is None:
        teacher.init_weights()
        return teacher
    weights = model_weights(read_checkpoint(checkpoint, key, remedy))
    load_strictly(teacher, weights, key, checkpoint, remedy)
    return teacher


def _classes(model: nn.Module) -> int | None:
    return getattr(getattr(model, 'head', None), 'num_classes', None)


def check_classes(teacher: nn.Module, student: nn.Module) -> None:
    """Teacher and student score the same number of classes."""
    theirs, ours = _classes(teacher), _classes(student)
    if None not in (theirs, ours) and theirs != ours:
        raise ValueError(
            describe(
                'model.architecture.head.num_classes',
                ours,
                f'The teacher scores {theirs} classes.',
                'Give model.teacher.head.num_classes and '
                'model.architecture.head.num_classes the same value.',
            )
        )


def check_preprocessing(teacher: nn.Module, shared: nn.Module) -> None:
    """A teacher that states its own normalisation must state the one it gets."""
    own = getattr(teacher, 'data_preprocessor', None)
    if not getattr(own, '_enable_normalize', False):
        return
    theirs, ours = _normalisation(own), _normalisation(shared)
    if theirs != ours:
        raise ValueError(
            describe(
                'model.teacher.data_preprocessor',
                theirs,
                f'Teacher and student share one preprocessed batch, made with {ours}.',
                'Use the same mean, std and to_rgb for both (data_preprocessor).',
            )
        )


def check_batch_augments(student: nn.Module, shared: nn.Module) -> None:
    """Mixup asked for in the student's own config would silently never happen."""
    own = getattr(student, 'data_preprocessor', None)
    if own is shared or not getattr(own, 'batch_augments', None):
        return
    if not getattr(shared, 'batch_augments', None):
        raise ValueError(
            describe(
                'model.architecture.train_cfg.augments',
                '(set)',
                'Batches are made by `data_preprocessor`, which has none.',
                'Move it to data_preprocessor.batch_augments.',
            )
        )


def _normalisation(preprocessor: nn.Module) -> dict:
    values = {'to_rgb': bool(getattr(preprocessor, 'to_rgb', False))}
    for name in ('mean', 'std'):
        value = getattr(preprocessor, name, None)
        values[name] = None if value is None else value.flatten().tolist()
    return values
