"""Tries a head out in the first training step: what do labels and shifts change?"""

import copy
import logging
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from mmengine.utils import apply_to
from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.models.task_modules.recorder import (
    FunctionOutputsRecorder,
    MethodOutputsRecorder,
    ModuleOutputsRecorder,
)
from torch import Tensor, nn

from ...utils.errors import describe
from ..losses.base import as_distill_loss, in_float32
from ..recorders.taps import points_of
from .distiller_config import HEAD, side_of, spread

# By so much all scores rise together. Two are tried, because a sum over labels may have
# the same value twice by chance. What changes by less than a share of its value does
# not see them: a softmax is left with its rounding, a sigmoid changes by far more.
SHIFTS = 3.0, -3.0
LEAST_CHANGE = 1e-2
ROUNDING = 1e-4


class Call(NamedTuple):
    """Arguments of a head's ``loss``: features, samples and what else it was given."""

    feats: Any
    samples: Any
    rest: tuple
    options: dict[str, Any]


class Record(NamedTuple):
    """A record that an argument of a loss is made of."""

    recorder: str
    record_idx: int
    data_idx: int | None


@contextmanager
def trying_heads(
    distiller: ConfigurableDistiller, student: BaseModel, teacher: BaseModel
) -> Iterator[None]:
    """Try out the heads of both nets on the step that is computed within.

    Random numbers and running statistics stay as they are.

    Args:
        distiller (ConfigurableDistiller): It has recorders and losses.
        student (BaseModel): The student.
        teacher (BaseModel): The teacher, whose head is tried if it computes a loss.

    Raises:
        ValueError: see :func:`check_labels_change_nothing`.
    """
    with watch_loss(student) as of_student, watch_loss(teacher) as of_teacher:
        yield
    for call in of_student[:1]:
        check_labels_change_nothing(distiller, student, call, of_student=True)
        warn_of_blind_losses(distiller, student, call)
    for call in of_teacher[:1]:
        check_labels_change_nothing(distiller, teacher, call, of_student=False)


@contextmanager
def watch_loss(net: BaseModel) -> Iterator[list[Call]]:
    """Collect the arguments with which a net calls the ``loss`` of its head."""
    head, calls = getattr(net, 'head', None), list[Call]()
    original = getattr(head, 'loss', None)
    if head is None or original is None:
        yield calls
        return
    own = vars(head).get('loss')

    def watched(*args: Any, **options: Any) -> Any:
        if len(args) > 1:
            calls.append(Call(args[0], args[1], args[2:], options))
        return original(*args, **options)

    head.loss = watched
    try:
        yield calls
    finally:
        del head.loss
        if own is not None:
            head.loss = own


def check_labels_change_nothing(
    distiller: ConfigurableDistiller, net: BaseModel, call: Call, of_student: bool
) -> None:
    """Refuse scores that carry a margin, because the other net's do not.

    The loss of a copy of the head is computed twice, the second time with other labels.
    What is recorded in the head, and compared with the other net, has to be the same.

    Args:
        distiller (ConfigurableDistiller): It has recorders and losses.
        net (BaseModel): The student, or the teacher.
        call (Call): The call of its head in this step.
        of_student (bool): Whether it is the student.

    Raises:
        ValueError: naming the recorder and the head.
    """
    side = side_of(of_student)
    recorders = getattr(distiller, side).recorders
    records = [
        record
        for record in _compared(distiller, of_student)
        if _is_in_head(recorders[record.recorder], net)
    ]
    if not records:
        return
    plain = _run(net.head, call, recorders, records)[1]
    widths = [x.shape[-1] for x in plain if x is not None]
    if not widths:
        return
    classes = getattr(net.head, 'num_classes', None) or min(widths)
    samples = [_relabelled(sample, classes) for sample in call.samples]
    other = _run(net.head, call._replace(samples=samples), recorders, records)[1]
    for record, before, after in zip(records, plain, other, strict=True):
        if before is None or after is None or not _differ(before, after, ROUNDING):
            continue
        source, head = recorders[record.recorder].source, type(net.head).__name__
        problem = f'What is recorded there changes with the labels: {head} adds a '
        problem += 'margin, say, which the scores of the other net do not have.'
        remedy = "Write type='ModuleOutputs', source='head', which is recorded without "
        remedy += 'labels; if it is that already, record the scores before the margin '
        remedy += "(source='head.norm_product' in both nets, say; tau then divides "
        remedy += 'cosines from -1 to 1).'
        key = f'{HEAD}.{side}.{record.recorder}.source'
        raise ValueError(describe(key, source, problem, remedy))


def warn_of_blind_losses(
    distiller: ConfigurableDistiller, student: BaseModel, call: Call
) -> None:
    """Warn of losses between logits that do not see what the student's own loss sees.

    A softmax stays the same where all logits of an image rise together, and a sigmoid
    does not. Hence a student of several labels per image cannot learn from a softmax
    how many of them there are.
    """
    recorders = distiller.student_recorders.recorders
    fed = {
        name: mapping
        for name, mapping in distiller.loss_forward_mappings.items()
        if any(
            record['from_student']
            and _is_compared(argument, True)
            and isinstance(record['recorder'], str)
            and _is_in_head(recorders[record['recorder']], student)
            for argument, record in mapping.items()
        )
        and not any(record.get('connector') for record in mapping.values())
        and not as_distill_loss(distiller.distill_losses[name]).needs_dataset
    }
    if not fed:
        return
    plain, *shifted = (
        _run(student.head, call, {}, [], shift)[0] for shift in (0.0, *SHIFTS)
    )
    if not any(_differ(plain, value, LEAST_CHANGE) for value in shifted):
        return
    for name, mapping in fed.items():
        loss = distiller.distill_losses[name]
        if not _sees_shift(distiller, loss, mapping):
            kind, head = type(loss).__name__, type(student.head).__name__
            problem = 'It does not change where all logits of an image rise together, '
            problem += f'as a softmax does not; the own loss of {head} does. So it '
            problem += 'cannot teach how sure of its classes the teacher is.'
            remedy = "Write type='SigmoidKDLoss', which compares each class by itself "
            remedy += '(configs/_base_/methods/sigmoid_kd.py).'
            text = describe(f'{HEAD}.distill_losses.{name}.type', kind, problem, remedy)
            print_log(text, 'current', logging.WARNING)


def _sees_shift(
    distiller: ConfigurableDistiller, loss: nn.Module, mapping: dict[str, dict]
) -> bool:
    """Return whether a loss changes where all of the student's logits rise."""
    fed = {name: in_float32(distiller.get_record(**x)) for name, x in mapping.items()}
    values = []
    for shift in (0.0, *SHIFTS):
        moved = dict(fed)
        for name in mapping:
            if _is_compared(name, True) and isinstance(fed[name], Tensor):
                # The graph is that of a step, for which a loss may be compiled.
                moved[name] = (fed[name].detach() + shift).requires_grad_()
        with _repeatable(moved):
            values.append(_copy(loss)(**moved).detach())
    return any(_differ(values[0], value, ROUNDING) for value in values[1:])


def _run(
    head: Any,
    call: Call,
    recorders: dict[str, Any],
    records: list[Record],
    shift: float = 0.0,
) -> tuple[Tensor, list[Tensor | None]]:
    """Compute the loss of a copy of a head; return it and what is recorded in it.

    None stands for a record that is no matrix of scores.
    """
    net, head = nn.Module(), _copy(head)
    net.add_module('head', head)
    fresh = {record.recorder: recorders[record.recorder] for record in records}
    fresh = {name: _like(recorder) for name, recorder in fresh.items()}
    for recorder in fresh.values():
        recorder.prepare_from_model(net)
    # A shift would be lost in the rounding of half precision.
    dtype = next((x.dtype for x in head.parameters()), torch.float32)
    feats = apply_to(call.feats, _is_float, lambda x: x.to(dtype))
    if shift:
        head.register_forward_hook(
            lambda module, inputs, output: apply_to(
                output, _is_float, lambda scores: scores + shift
            )
        )
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_repeatable(feats))
        for recorder in fresh.values():
            stack.enter_context(recorder)
        losses = head.loss(feats, call.samples, *call.rest, **call.options)
    found: list[Tensor | None] = []
    for record in records:
        recorder, data = fresh[record.recorder], None
        if recorder.data_buffer:
            data = recorder.get_record_data(record.record_idx, record.data_idx)
        is_matrix = isinstance(data, Tensor) and _is_float(data) and data.dim() == 2
        found.append(data if is_matrix else None)
    values = [value for name, value in losses.items() if 'loss' in name]
    total = sum((x.sum() for x in values if isinstance(x, Tensor)), torch.zeros(()))
    return total, found


def _like(recorder: Any) -> Any:
    """Return a recorder of the same source whose records are its own.

    A method that was set on the recorder itself is left out, because it is bound to it.
    """
    made = copy.copy(recorder)
    for name, value in list(vars(made).items()):
        if callable(value) and hasattr(type(made), name):
            delattr(made, name)
    return made


def _compared(distiller: ConfigurableDistiller, of_student: bool) -> list[Record]:
    """Return the records that losses compare with those of the other net."""
    found = []
    for mapping in distiller.loss_forward_mappings.values():
        for argument, entry in mapping.items():
            is_of_net = entry['from_student'] == of_student
            if not is_of_net or not _is_compared(argument, of_student):
                continue
            names = spread(entry['recorder'], 1)
            columns = [
                spread(entry.get(option, default), len(names))
                for option, default in (('record_idx', 0), ('data_idx', None))
            ]
            found += [Record(*row) for row in zip(names, *columns, strict=True)]
    return found


def _is_compared(argument: str, of_student: bool) -> bool:
    """Tell by its name whether an argument is what a net gives, as mmrazor's are."""
    letter = 'S' if of_student else 'T'
    return argument.endswith(f'_{letter}') or argument.startswith(f'{letter.lower()}_')


def _is_in_head(recorder: Any, net: nn.Module) -> bool:
    """Return whether a recorder may record in the head of a net."""
    if isinstance(recorder, (FunctionOutputsRecorder, MethodOutputsRecorder)):
        return True
    if not isinstance(recorder, ModuleOutputsRecorder):
        return False
    point = points_of(net).get(recorder.source)
    source = point.module if point else recorder.source
    return source.partition('.')[0] == 'head'


def _relabelled(sample: Any, classes: int) -> Any:
    """Return a sample with the next class in the place of each label."""
    if not isinstance(sample, BaseDataElement):
        return sample
    moved = sample.clone()
    if 'gt_label' in sample:
        moved.set_field((sample.gt_label + 1) % classes, 'gt_label')
    if 'gt_score' in sample:
        moved.set_field(sample.gt_score.roll(1, -1), 'gt_score')
    return moved


def _copy(module: Any) -> Any:
    """Return a copy that shares the parameters, without hooks of its forward."""
    copies: dict[int, Any] = {}
    for part in module.modules():
        # What stands here for a tensor or for hooks is taken for its copy. A tensor
        # with a graph cannot be copied, and a copy of parameters would cost memory.
        kept = [*part._parameters.values(), *vars(part).values()]
        copies |= {id(x): x for x in kept if isinstance(x, Tensor)}
        hooks = part._forward_hooks, part._forward_pre_hooks
        copies |= {id(x): OrderedDict() for x in hooks}
    return copy.deepcopy(module, copies)


@contextmanager
def _repeatable(data: Any) -> Iterator[None]:
    """Compute on data without autocast, and draw the run's next numbers each time."""
    devices: list[torch.device] = []
    apply_to(data, _is_float, lambda x: devices.append(x.device))
    device = devices[0] if devices else torch.device('cpu')
    with (
        torch.random.fork_rng([device] if device.type == 'cuda' else []),
        torch.autocast(device.type, enabled=False),
    ):
        yield


def _differ(one: Tensor, other: Tensor, share: float) -> bool:
    """Return whether two tensors differ by more than a share of their values."""
    if not one.numel():
        return False
    scale = torch.maximum(one.abs().amax(), other.abs().amax())
    return bool((one - other).abs().amax() > share * scale)


def _is_float(data: Any) -> bool:
    return isinstance(data, Tensor) and data.is_floating_point()
