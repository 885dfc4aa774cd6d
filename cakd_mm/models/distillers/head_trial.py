"""Tries a head out in the first training step: what do labels and shifts change?

The head of a net of others, which has none of mmpretrain's kind, is its loss module.
"""

import copy
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
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

from ...tasks import task_of
from ...utils.compiling import is_compiled
from ...utils.errors import describe
from ...utils.random_states import random_states_kept
from ...utils.snapshot import snapshot
from ..checks import is_float_tensor
from ..losses.base import as_distill_loss, in_float32
from ..recorders.tap_recorder import TapRecorder
from ..taps import classifier_of, points_of
from .distiller_config import HEAD, each_record, is_of_net, side_of

# By so much all scores rise together. Two are tried, because a sum over labels may have
# the same value twice by chance. What changes by less than a share of its value does
# not see them: a softmax is left with its rounding, a sigmoid changes by far more.
SHIFTS = 3.0, -3.0
LEAST_CHANGE = 1e-2
ROUNDING = 1e-4
ITS_OWN_NUMBERS = 'it gives other numbers each time for the same images and labels'


class LossOfScores(nn.Module):
    """A loss module with the form of a head: its features are the scores.

    Args:
        loss_module (nn.Module): It takes scores, labels and others.
    """

    def __init__(self, loss_module: nn.Module) -> None:
        super().__init__()
        self.loss_module = loss_module

    def forward(self, scores: Tensor) -> Tensor:
        """Return the scores."""
        return scores

    def loss(self, scores: Tensor, *args: Any, **options: Any) -> dict[str, Tensor]:
        """Return the value of the loss module, as heads do."""
        return dict(loss=self.loss_module(self(scores), *args, **options))


class Call(NamedTuple):
    """Copies of the arguments of a head's ``loss``: features, samples and others."""

    args: tuple
    options: dict[str, Any]


class Record(NamedTuple):
    """A record that an argument of a loss is made of."""

    recorder: str
    record_idx: int
    data_idx: int | None


class HeadTrial:
    """Tries out each net's head in the first step in which it computes its loss.

    Random numbers, running statistics and whatever a head keeps stay as they are. What
    cannot be tried is named in the log.

    Args:
        distiller (ConfigurableDistiller): It has recorders and losses.
        teacher_has_loss (bool): Whether the teacher computes its own loss, too.
    """

    def __init__(
        self, distiller: ConfigurableDistiller, teacher_has_loss: bool
    ) -> None:
        self.distiller = distiller
        self._untried = {True, False} if teacher_has_loss else {True}

    def leave_out(self, student: BaseModel) -> None:
        """Say that a compiled student is not tried, and try nothing from now on."""
        if self._untried:
            _log_left_out(student, 'it is compiled')
            self._untried.clear()

    @contextmanager
    def watching(self, student: BaseModel, teacher: BaseModel) -> Iterator[None]:
        """Try out the heads of both nets on the step that is computed within.

        Raises:
            ValueError: see :func:`check_labels_change_nothing`.
        """
        # It would be compiled a second time when its head is as it was.
        if self._untried and is_compiled(student):
            self.leave_out(student)
        nets = {True: student, False: teacher}
        with ExitStack() as stack:
            calls = {
                of_student: stack.enter_context(watch_loss(nets[of_student]))
                for of_student in self._untried
            }
            yield
        for of_student, found in calls.items():
            for call in found:
                self._try(nets[of_student], call, of_student)
                self._untried.discard(of_student)
        # The task tells what need not be tried out.
        if True in self._untried and task_of(student).scores_by_sigmoid(student):
            for name in blind_losses_of_maps(self.distiller, student):
                _warn_of_blind_loss(self.distiller, student, name)
            self._untried.discard(True)

    def _try(self, net: BaseModel, call: Call | Exception, of_student: bool) -> None:
        names, blind = list[str](), list[str]()
        try:
            if isinstance(call, Exception):
                raise call
            names = records_with_labels(self.distiller, net, call, of_student)
            if of_student and not names:
                blind = blind_losses(self.distiller, net, call)
        except Exception as error:  # of a head that can be trained, but not tried
            _log_left_out(net, f'{type(error).__name__}: {error}')
        for name in names:
            raise _margin(self.distiller, net, name, of_student)
        for name in blind:
            _warn_of_blind_loss(self.distiller, net, name)


def head_of(net: BaseModel) -> Any:
    """Return what computes a net's loss of its labels, with the form of a head."""
    head = getattr(net, 'head', None)
    loss_module = getattr(net, 'loss_module', None)
    if head is None and loss_module is not None:
        return LossOfScores(loss_module)
    return head


def _kind_of(net: BaseModel) -> str:
    """Return the name of the class that computes a net's loss of its labels."""
    return type(getattr(net, 'head', None) or net).__name__


def _log_left_out(net: BaseModel, reason: str) -> None:
    text = f'{_kind_of(net)} was not tried out, because {reason}. Whether '
    text += 'labels change the logits that are compared (by a margin), and whether the '
    text += 'losses suit a sigmoid, is not known: see docs/guides/heads.md.'
    print_log(text, 'current', logging.WARNING)


@contextmanager
def watch_loss(net: BaseModel) -> Iterator[list[Call | Exception]]:
    """Collect the first arguments with which a net calls the ``loss`` of its head.

    They are copied, because a head may change them; or there is the error of copying.
    """
    calls = list[Call | Exception]()

    def note(owner: Any, args: tuple, options: dict[str, Any]) -> None:
        if not calls:
            try:
                calls.append(snapshot(Call(args, options)))
            except Exception as error:
                calls.append(error)

    head = head_of(net)
    if isinstance(head, LossOfScores):
        before = head.loss_module.register_forward_pre_hook
        with before(note, with_kwargs=True):
            yield calls
        return
    original = getattr(head, 'loss', None)
    if original is None:
        yield calls
        return
    own = vars(head).get('loss')

    def watched(*args: Any, **options: Any) -> Any:
        note(head, args, options)
        return original(*args, **options)

    head.loss = watched
    try:
        yield calls
    finally:
        del head.loss
        if own is not None:
            head.loss = own


def records_with_labels(
    distiller: ConfigurableDistiller, net: BaseModel, call: Call, of_student: bool
) -> list[str]:
    """Return the recorders whose scores carry a margin, as the other net's do not.

    The loss of a copy of the head is computed again with other labels. What is recorded
    in the head, and compared with the other net, has to be the same.

    Args:
        distiller (ConfigurableDistiller): It has recorders and losses.
        net (BaseModel): The student, or the teacher.
        call (Call): The call of its head in this step.
        of_student (bool): Whether it is the student.

    Raises:
        RuntimeError: the same labels give other scores each time.
    """
    recorders = getattr(distiller, side_of(of_student)).recorders
    records = [
        record
        for record in _compared(distiller, of_student)
        if _is_in_head(recorders[record.recorder], net)
    ]
    head = head_of(net)
    # A net of others scores before it is given labels.
    if not records or isinstance(head, LossOfScores):
        return []
    plain = _run(head, call, recorders, records)[1]
    widths = [x.shape[-1] for x in plain if x is not None]
    if not widths:
        return []
    classes = getattr(head, 'num_classes', None) or min(widths)
    moved = Call(*_relabelled(tuple(call), classes))
    other = _run(head, moved, recorders, records)[1]
    again = _run(head, call, recorders, records)[1]
    if any(map(_have_changed, plain, again)):
        raise RuntimeError(ITS_OWN_NUMBERS)
    changed = map(_have_changed, plain, other)
    return [x.recorder for x, moves in zip(records, changed, strict=True) if moves]


def _have_changed(before: Tensor | None, after: Tensor | None) -> bool:
    if before is None or after is None:
        return False
    return _differ(before, after, ROUNDING)


def _margin(
    distiller: ConfigurableDistiller, net: BaseModel, name: str, of_student: bool
) -> ValueError:
    """Return the error of a recorder whose scores carry a margin."""
    side = side_of(of_student)
    source = getattr(distiller, side).recorders[name].source
    problem = 'What is recorded there changes with the labels: '
    problem += f'{_kind_of(net)} adds a margin, say, which the scores of the other net '
    problem += 'do not have.'
    remedy = "Write type='ModuleOutputs', source='head', which is recorded without "
    remedy += 'labels; if it is that already, record the scores before the margin '
    remedy += "(source='head.norm_product' in both nets, say; tau then divides "
    remedy += 'cosines from -1 to 1).'
    return ValueError(describe(f'{HEAD}.{side}.{name}.source', source, problem, remedy))


def blind_losses(
    distiller: ConfigurableDistiller, student: BaseModel, call: Call
) -> list[str]:
    """Return losses between logits that do not see what the student's own loss sees.

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
            and is_of_net(argument, True)
            and isinstance(record['recorder'], str)
            and _is_in_head(recorders[record['recorder']], student)
            for argument, record in mapping.items()
        )
        and not any(record.get('connector') for record in mapping.values())
        and not as_distill_loss(distiller.distill_losses[name]).needs_dataset
    }
    if not fed:
        return []
    plain, again, *shifted = (
        _run(head_of(student), call, {}, [], shift)[0] for shift in (0.0, 0.0, *SHIFTS)
    )
    if _differ(plain, again, ROUNDING):
        raise RuntimeError(ITS_OWN_NUMBERS)
    if not any(_differ(plain, value, LEAST_CHANGE) for value in shifted):
        return []
    losses = distiller.distill_losses
    return [x for x in fed if not _sees_shift(distiller, losses[x], fed[x])]


def blind_losses_of_maps(
    distiller: ConfigurableDistiller, student: BaseModel
) -> list[str]:
    """Return losses between maps of scores that do not see what a sigmoid sees.

    Args:
        distiller (ConfigurableDistiller): It has recorded a step.
        student (BaseModel): A net that scores each class of a position by a sigmoid.
    """
    recorders = distiller.student_recorders.recorders
    places = points_of(student)
    scores = {x.module for name, x in places.items() if name.startswith('logits')}

    def are_scores(name: str) -> bool:
        source = getattr(recorders[name], 'source', '')
        return source in scores or source.startswith('logits')

    return [
        name
        for name, mapping in distiller.loss_forward_mappings.items()
        if not any(record.get('connector') for record in mapping.values())
        and any(
            is_of_net(argument, True) and are_scores(one['recorder'])
            for argument, record in mapping.items()
            if record['from_student']
            for one in each_record(record)
        )
        and not _sees_shift(distiller, distiller.distill_losses[name], mapping)
    ]


def _warn_of_blind_loss(
    distiller: ConfigurableDistiller, student: BaseModel, name: str
) -> None:
    kind = type(distiller.distill_losses[name]).__name__
    problem = 'It does not change where all logits of an image rise together, as a '
    problem += f'softmax does not; the own loss of {_kind_of(student)} does. '
    problem += 'So it cannot teach how sure of its classes the teacher is.'
    remedy = 'Inherit configs/_base_/methods/sigmoid_kd.py in the place of the '
    remedy += "method's base, or write type='SigmoidKDLoss' for this loss, which "
    remedy += 'compares each class by itself.'
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
            if is_of_net(name, True):
                moved[name] = apply_to(
                    fed[name], is_float_tensor, partial(_shifted, by=shift)
                )
        with _repeatable(moved):
            values.append(snapshot(loss)(**moved).detach())
    return any(_differ(values[0], value, ROUNDING) for value in values[1:])


def _shifted(scores: Tensor, by: float) -> Tensor:
    # The graph is that of a step, for which a loss may be compiled.
    return (scores.detach() + by).requires_grad_()


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
    # Each run has copies of its own, because a head may work in place on its features.
    net, (head, args, options) = nn.Module(), snapshot((head, *call))
    net.add_module('head', head)
    fresh = {record.recorder: recorders[record.recorder] for record in records}
    fresh = {name: _like(recorder) for name, recorder in fresh.items()}
    for recorder in fresh.values():
        recorder.prepare_from_model(net)
    # A shift would be lost in the rounding of half precision.
    dtype = next((x.dtype for x in head.parameters()), torch.float32)
    args = apply_to(args, is_float_tensor, lambda x: x.to(dtype))
    if shift:
        head.register_forward_hook(
            lambda module, inputs, output: apply_to(
                output, is_float_tensor, lambda scores: scores + shift
            )
        )
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_repeatable(args))
        for recorder in fresh.values():
            stack.enter_context(recorder)
        losses = head.loss(*args, **options)
    found: list[Tensor | None] = []
    for record in records:
        recorder, data = fresh[record.recorder], None
        if recorder.data_buffer:
            data = recorder.get_record_data(record.record_idx, record.data_idx)
        is_matrix = is_float_tensor(data) and data.dim() == 2
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
    return [
        Record(one['recorder'], one['record_idx'], one['data_idx'])
        for mapping in distiller.loss_forward_mappings.values()
        for argument, entry in mapping.items()
        if entry['from_student'] == of_student and is_of_net(argument, of_student)
        for one in each_record(entry)
    ]


def _is_in_head(recorder: Any, net: nn.Module) -> bool:
    """Return whether a recorder may record in the head of a net, or its scores."""
    if isinstance(recorder, (FunctionOutputsRecorder, MethodOutputsRecorder)):
        return True
    if not isinstance(recorder, ModuleOutputsRecorder):
        return False
    point = None
    if isinstance(recorder, TapRecorder):  # Others name no place, so nothing is run.
        point = points_of(net).get(recorder.source)
    source = point.module if point else recorder.source
    if getattr(net, 'head', None) is None:
        return source == 'model' or source == classifier_of(net)
    return source.partition('.')[0] == 'head'


def _relabelled(data: Any, classes: int) -> Any:
    """Return data whose samples have the next class in the place of each label."""
    return apply_to(
        data,
        lambda x: isinstance(x, BaseDataElement),
        lambda x: _with_next_label(x, classes),
    )


def _with_next_label(sample: BaseDataElement, classes: int) -> BaseDataElement:
    moved = sample.clone()
    if 'gt_label' in sample:
        moved.set_field((sample.gt_label + 1) % classes, 'gt_label')
    if 'gt_score' in sample:
        moved.set_field(sample.gt_score.roll(1, -1), 'gt_score')
    return moved


@contextmanager
def _repeatable(data: Any) -> Iterator[None]:
    """Compute on data without autocast, and draw the run's next numbers each time."""
    tensors: list[Tensor] = []
    apply_to(data, is_float_tensor, tensors.append)
    kind = tensors[0].device.type if tensors else 'cpu'
    with random_states_kept(tensors), torch.autocast(kind, enabled=False):
        yield


def _differ(one: Tensor, other: Tensor, share: float) -> bool:
    """Return whether two tensors differ by more than a share of their values."""
    if not one.numel():
        return False
    scale = torch.maximum(one.abs().amax(), other.abs().amax())
    return bool((one - other).abs().amax() > share * scale)
