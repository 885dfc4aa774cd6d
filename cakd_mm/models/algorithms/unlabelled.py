"""Images without labels, from which a student learns by its teacher alone."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmpretrain.structures import DataSample
from mmrazor.models.distillers import ConfigurableDistiller

from ...utils.errors import describe

OF_LOSSES = 'model.distiller.loss_forward_mappings'


def has_label(sample: Any) -> bool:
    """Return whether a sample has a label; samples of unknown kinds are said to."""
    if isinstance(sample, DataSample):
        return 'gt_label' in sample or 'gt_score' in sample
    return sample is not None


def lacking(samples: Any) -> str:
    """Say how many images of a batch have no label; '' if all have one.

    Args:
        samples (list | LabelBatch | None): The annotations of the batch.
    """
    if samples is None:
        return 'The images of this batch have no labels'
    if not isinstance(samples, (list, tuple)):
        return ''
    missing = len(samples) - sum(map(has_label, samples))
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
        if not lack:
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


def check_records(distiller: ConfigurableDistiller, lack: str) -> None:
    """Refuse a loss that compares what only the student's own loss is given.

    Args:
        distiller (ConfigurableDistiller): It has recorded a batch of which the student
            has computed no loss.
        lack (str): What :func:`lacking` says.

    Raises:
        ValueError: naming the loss and its argument.
    """
    for name, mapping in distiller.loss_forward_mappings.items():
        for argument, record in mapping.items():
            if record['from_student'] and not _is_recorded(distiller, record):
                loss = type(distiller.distill_losses[name]).__name__
                problem = (
                    f'{lack} (train_dataloader), so the student runs without its own '
                    f'loss, and {loss} is not given its {argument}.'
                )
                remedy = (
                    'Use a loss that needs no labels, or a train_dataloader.dataset '
                    'that has them.'
                )
                key, value = f'{OF_LOSSES}.{name}.{argument}', dict(record)
                raise ValueError(describe(key, value, problem, remedy))


def _is_recorded(distiller: ConfigurableDistiller, record: Mapping) -> bool:
    names = record['recorder']
    names = [names] if isinstance(names, str) else names
    recorders = distiller.student_recorders
    return all(recorders.get_recorder(name).data_buffer for name in names)
