"""Whether the losses of a distiller see which classes a teacher scores."""

from typing import Any

from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.models.task_modules.recorder import (
    ModuleInputsRecorder,
    ModuleOutputsRecorder,
    ParameterRecorder,
)
from torch import nn

from ...tasks import task_of
from ..taps import classifier_of, owner_of, points_of
from .distiller_config import each_record


def compares_classes(distiller: ConfigurableDistiller, teacher: nn.Module) -> bool:
    """Tell whether a loss is given scores, or weights, of a teacher's classes.

    Otherwise it does not matter which classes the teacher knows.

    Args:
        distiller (ConfigurableDistiller): It has its recorders.
        teacher (nn.Module): One teacher, or several that teach as one.
    """
    names = {
        one['recorder']
        for mapping in distiller.loss_forward_mappings.values()
        for record in mapping.values()
        if not record['from_student']
        for one in each_record(record)
    }
    recorders = distiller.teacher_recorders.recorders
    return any(_records_classes(recorders[name], teacher) for name in names)


def _records_classes(recorder: Any, teacher: nn.Module) -> bool:
    """Tell whether what a recorder gives may have a row or a column for each class."""
    known = ModuleInputsRecorder, ModuleOutputsRecorder, ParameterRecorder
    if not isinstance(recorder, known):
        return True
    source = recorder.source
    if isinstance(recorder, ParameterRecorder):
        source = source.rpartition('.')[0]
    takes_input = isinstance(recorder, ModuleInputsRecorder)
    point = points_of(teacher).get(source)
    if point is not None:
        source, takes_input = point.module, point.takes_input
    teacher, source = owner_of(teacher, source)
    head = task_of(teacher).count_place(teacher) or 'head'
    # Where a net has no head, its whole output is scores.
    ends = {head, 'model', classifier_of(teacher)}
    places = points_of(teacher).items()
    # Where the scores are known to be a layer's, what comes before it has no classes.
    layers = {x.module for name, x in places if name.startswith('logits')} - ends
    if source in ends | layers:
        return not takes_input
    return not layers and source.startswith(f'{head}.')
