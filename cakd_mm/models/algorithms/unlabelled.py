"""Images without labels, from which a student learns by its teacher alone."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import Parameter, signature
from typing import Any

from mmrazor.models.distillers import ConfigurableDistiller
from torch import nn

from ...tasks import Task
from ...utils.agreement import is_of_waiting
from ...utils.errors import describe
from ..distillers import StrictDistiller

OF_LOSSES = 'model.distiller.loss_forward_mappings'


def lacking(samples: Any, task: Task) -> str:
    """Say how many images of a batch have no label; '' if all have one.

    Args:
        samples (list | LabelBatch | None): The annotations of the batch.
        task (Task): The task of the student.
    """
    if samples is None:
        return 'The images of this batch have no labels'
    if not isinstance(samples, (list, tuple)):
        return ''
    missing = len(samples) - sum(map(task.has_label, samples))
    if not missing:
        return ''
    return f'{missing} of the {len(samples)} images of this batch have no label'


@contextmanager
def naming_labels(lack: str) -> Iterator[None]:
    """Let errors of the student's own loss say that labels are lacking.

    Args:
        lack (str): What :func:`lacking` says.

    Raises:
        ValueError: the student's loss cannot be computed.
    """
    try:
        yield
    except Exception as error:
        if not lack or is_of_waiting(error):
            raise
        raise needs_labels(lack) from error


def needs_labels(lack: str) -> ValueError:
    """Return the error of a batch without labels under a student's own loss."""
    problem = f"{lack} (train_dataloader.dataset), and the student's own loss needs it."
    remedy = 'Write model.calculate_student_loss=False, to learn from the teacher '
    remedy += 'alone, or give train_dataloader.dataset a label for every image '
    remedy += '(with_label=True of CustomDataset).'
    return ValueError(describe('model.calculate_student_loss', True, problem, remedy))


def check_teacher_mode(mode: str, lack: str) -> None:
    """Raise ValueError if the teacher is to compute its own loss without labels."""
    if lack and mode == 'loss':
        problem = f"{lack} (train_dataloader), which the teacher's own loss needs."
        remedy = "Write teacher_mode='tensor'."
        raise ValueError(describe('model.teacher_mode', mode, problem, remedy))


def left_out(distiller: ConfigurableDistiller, lack: str) -> set[tuple[str, str]]:
    """Return which arguments of which losses are not there without labels.

    Args:
        distiller (ConfigurableDistiller): It has recorded a batch of which the student
            has computed no loss.
        lack (str): What :func:`lacking` says.

    Returns:
        set[tuple[str, str]]: Name of the loss and of an argument that is optional.

    Raises:
        ValueError: a loss needs what only the student's own loss is given.
    """
    absent = {
        (name, argument): record
        for name, mapping in distiller.loss_forward_mappings.items()
        for argument, record in mapping.items()
        if record['from_student'] and not _is_recorded(distiller, record)
    }
    for (name, argument), record in absent.items():
        loss = distiller.distill_losses[name]
        if _needs(loss, argument) or not isinstance(distiller, StrictDistiller):
            problem = (
                f'{lack} (train_dataloader), so the student runs without its own loss, '
                f'and {type(loss).__name__} is not given the {argument} that it needs.'
            )
            remedy = (
                'Use a loss (or a scorer) that needs none, or a '
                'train_dataloader.dataset that has labels.'
            )
            key = f'{OF_LOSSES}.{name}.{argument}'
            raise ValueError(describe(key, dict(record), problem, remedy))
    return {*absent}


def _needs(loss: nn.Module, argument: str) -> bool:
    """Return whether a loss, or its scorer, cannot do without an argument."""
    if argument in getattr(getattr(loss, 'scorer', None), 'needs', ()):
        return True
    parameter = signature(loss.forward).parameters.get(argument)
    return parameter is None or parameter.default is Parameter.empty


def _is_recorded(distiller: ConfigurableDistiller, record: Mapping) -> bool:
    names = record['recorder']
    names = [names] if isinstance(names, str) else names
    recorders = distiller.student_recorders
    return all(recorders.get_recorder(name).data_buffer for name in names)
