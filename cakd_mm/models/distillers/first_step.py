"""What the first training step shows: whether every loss teaches the student."""

import logging
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from mmrazor.models.distillers import ConfigurableDistiller
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from ...utils.building import naming_use, places_of
from ...utils.errors import describe
from ...utils.model import in_eval
from ...utils.type_names import class_name
from ..checks import is_float_tensor
from ..recorders.watched import tensors_of, watch_of
from .descent import Descent
from .distiller_config import (
    HEAD,
    connectors_of,
    each_record,
    is_of_net,
    side_of,
    without_connector,
)
from .rehearsal import rehearsed

# A node of the graph, and which of its outputs.
Edge = tuple[Any, int]


class Fed(NamedTuple):
    """What one recorder of the student gives to a loss.

    Args:
        argument (str): The loss's argument.
        record (dict): The recorder's part of the entry of ``loss_forward_mappings``.
        tensors (list[Tensor]): What the loss gets of it, before a connector. Only
            floating-point numbers count.
    """

    argument: str
    record: dict
    tensors: list[Tensor]


class Cause(NamedTuple):
    """Why a loss has no way to what a recorder recorded.

    Args:
        problem (str): For the error.
        remedy (str): For the error.
        is_fault (bool | None): Whether it is a mistake; None for what the loss itself
            does, which may be meant: a critic is trained by itself, say.
    """

    problem: str
    remedy: str
    is_fault: bool | None = True


class FirstStep:
    """Refuses what trains silently wrong, where only a step can show it.

    - A record that a later layer overwrites, within compiled code. What compiled code
      has recorded does not tell, so that the net runs once more, eagerly.
    - A loss without a way to the student: what it compares was recorded while
      gradients were off, or is detached in the net, in a connector or in the loss.

    A loss that has shown its way is not looked at again.

    Args:
        distiller (ConfigurableDistiller): It has recorders and losses.
    """

    def __init__(self, distiller: ConfigurableDistiller) -> None:
        self.distiller = distiller
        self._unproven = set(distiller.loss_forward_mappings)
        self._unrehearsed = {True, False}

    def check_records(self, from_student: bool) -> None:
        """Refuse what a net's recorders recorded if a loss could not use it.

        Raises:
            ValueError: nothing was recorded, or a later layer has overwritten it.
        """
        for loss in self.distiller.loss_forward_mappings:
            for argument, record in self._mapping_of(loss).items():
                if record['from_student'] != from_student:
                    continue
                key = f'{HEAD}.loss_forward_mappings.{loss}.{argument}'
                places = partial(places_of, record, key)
                with naming_use('The recorder', key, record, places):
                    self.distiller.get_record(**without_connector(record))

    def check_compiled(
        self, from_student: bool, net: nn.Module, run: Callable[[], object]
    ) -> None:
        """Refuse records of compiled code that later layers overwrite.

        Args:
            from_student (bool): Whose records.
            net (nn.Module): The student or the teacher, which has run.
            run (Callable): Runs it again.

        Raises:
            ValueError: naming the recorder.
        """
        # In a model that is compiled as a whole nothing else is to be called here.
        if from_student not in self._unrehearsed:
            return
        recorders = getattr(self.distiller, side_of(from_student))
        watches = [watch_of(recorder) for recorder in recorders.recorders.values()]
        if any(one is not None and one.is_compiled for one in watches):
            self._rehearse(from_student, net, run)

    @torch.compiler.disable
    def _rehearse(
        self, from_student: bool, net: nn.Module, run: Callable[[], object]
    ) -> None:
        self._unrehearsed.discard(from_student)
        recorders = getattr(self.distiller, side_of(from_student))
        with rehearsed(net, recorders, run):
            self.check_records(from_student)

    def check_gradients(
        self, losses: Mapping[str, Any], student: nn.Module, run: Callable[[], object]
    ) -> None:
        """Refuse losses that do not teach the student.

        Args:
            losses (Mapping): What the distiller has computed, by name.
            student (nn.Module): The student, which has run with gradients.
            run (Callable): Runs it again, to find a cause.

        Raises:
            ValueError: naming loss, argument and recorder. Where only frozen layers
                lie before what was recorded, a warning tells so instead.
        """
        if self._unproven:
            self._prove(losses, student, run)

    @torch.compiler.disable
    def _prove(
        self, losses: Mapping[str, Any], student: nn.Module, run: Callable[[], object]
    ) -> None:
        for name in sorted(self._unproven & losses.keys()):
            values = list(tensors_of(losses[name]))
            fed = self._fed_by_student(name)
            is_found = reached(values, [each.tensors for each in fed])
            lost = [
                each for each, found in zip(fed, is_found, strict=True) if not found
            ]
            if any(is_found):
                lost = [each for each in lost if is_of_net(each.argument, True)]
            elif not fed:
                self._check_sides(name, values)
            causes = [self._cause(name, each, student, run) for each in lost]
            trains = any(is_found) or any(x.requires_grad for x in values)
            # A loss may be 0 because a batch has nothing for it, which proves nothing.
            is_empty = not any(x.requires_grad or x.count_nonzero() for x in values)
            if is_empty and any(cause.is_fault is None for cause in causes):
                continue
            for each, cause in zip(lost, causes, strict=True):
                key = f'{HEAD}.loss_forward_mappings.{name}.{each.argument}'
                value = each.record['recorder']
                text = describe(key, value, cause.problem, cause.remedy)
                if cause.is_fault or (cause.is_fault is None and not trains):
                    raise ValueError(text)
                print_log(text, 'current', logging.WARNING)
            self._check_layers_of_teacher(name, list(tensors_of(list(losses.values()))))
            self._unproven.discard(name)

    def _mapping_of(self, loss: str) -> dict[str, dict]:
        """Return what feeds a loss in this step."""
        left_out = getattr(self.distiller, 'left_out', ())
        mapping = self.distiller.loss_forward_mappings[loss]
        return {name: x for name, x in mapping.items() if (loss, name) not in left_out}

    def _fed_by_student(self, loss: str) -> list[Fed]:
        """Return what a loss gets from each recorder of the student."""
        fed = []
        for argument, record in self._mapping_of(loss).items():
            if not record['from_student']:
                continue
            for one in each_record(record):
                found = tensors_of(self._given(one))
                if tensors := [x for x in found if is_float_tensor(x)]:
                    fed.append(Fed(argument, one, tensors))
        return fed

    def _given(self, record: Mapping) -> list[Any]:
        """Return what a recorder has given for an entry in this step.

        It is not asked again, because a loss may have overwritten what it got, and a
        recorder of a user's own may compute what it gives.
        """
        recorder = self.distiller.student_recorders.get_recorder(record['recorder'])
        key = record['record_idx'], record['data_idx']
        watch = watch_of(recorder)
        given = watch.given.get(key) if watch is not None else None
        return given or [self.distiller.get_record(**record)]

    def _check_sides(self, loss: str, values: list[Tensor]) -> None:
        """Refuse a loss that gets nothing of the student, unless it trains others."""
        mapping = self.distiller.loss_forward_mappings[loss]
        wrong = [
            x for x in mapping if is_of_net(x, True) and not mapping[x]['from_student']
        ]
        if wrong or not any(value.requires_grad for value in values):
            argument = (wrong or list(mapping))[0]
            key = f'{HEAD}.loss_forward_mappings.{loss}.{argument}'
            problem = 'The loss gets nothing that the student computes, so it has no '
            problem += 'gradient that would train it.'
            remedy = 'Write from_student=True for what the student gives.'
            raise ValueError(describe(key, dict(mapping[argument]), problem, remedy))

    def _cause(
        self, loss: str, fed: Fed, student: nn.Module, run: Callable[[], object]
    ) -> Cause:
        """Find out why a loss has no way to what a recorder recorded."""
        if not any(tensor.requires_grad for tensor in fed.tensors):
            return self._cause_in_net(fed, student, run)
        record = self.distiller.loss_forward_mappings[loss][fed.argument]
        if record.get('connector') is not None:
            with in_eval(self.distiller.connectors):
                connected = tensors_of(self._connected(loss, fed.argument))
            if not any(reached(connected, [list(tensors_of(self._given(fed.record)))])):
                problem = (
                    f'The connector {record["connector"]!r} gives it no gradient, '
                )
                problem += f'so {loss} teaches the student nothing there.'
                remedy = 'Do not detach it, or use torch.no_grad(), in that connector.'
                return Cause(problem, remedy)
        kind = type(self.distiller.distill_losses[loss]).__name__
        problem = f'{kind} gives it no gradient, so {loss} teaches the student nothing '
        problem += 'there.'
        remedy = 'Do not detach it, or use torch.no_grad(), in that loss.'
        return Cause(problem, remedy, None)

    def _connected(self, loss: str, argument: str) -> Any:
        """Return what an argument of a loss gets in this step."""
        if hasattr(self.distiller, 'fed'):  # which knows connectors that see two nets
            return self.distiller.fed(loss, argument)
        record = self.distiller.loss_forward_mappings[loss][argument]
        return self.distiller.get_record(**record)

    def _check_layers_of_teacher(self, loss: str, values: list[Tensor]) -> None:
        """Refuse random layers between the teacher and a loss that nothing trains.

        A connector that computes without gradients is meant to be trained elsewhere.

        Args:
            loss (str): Name of the loss.
            values (list[Tensor]): All losses of this step.
        """
        for argument, record in self._mapping_of(loss).items():
            names = [] if record['from_student'] else connectors_of(record)
            if not any(self._is_random(name, values) for name in names):
                continue
            with in_eval(self.distiller.connectors):
                found = tensors_of(self._connected(loss, argument))
            if any(tensor.requires_grad for tensor in found):
                key = f'{HEAD}.loss_forward_mappings.{loss}.{argument}.connector'
                problem = 'Nothing trains its layers, so the student would learn what '
                problem += "random weights make of the teacher's feature."
                remedy = 'Put a connector on the student instead, or write no '
                remedy += 'out_channels for one that can do without layers, or load '
                remedy += "weights by its init_cfg=dict(type='Pretrained', "
                remedy += "checkpoint='connector.pth')."
                raise ValueError(describe(key, record['connector'], problem, remedy))

    def _is_random(self, name: str, values: list[Tensor]) -> bool:
        """Tell whether a connector has weights that are neither loaded nor trained."""
        connector = self.distiller.connectors[name]
        weights = [p for p in connector.parameters() if p.requires_grad]
        if not weights or _is_loaded(connector):
            return False
        return not any(reached(values, [weights]))

    def _cause_in_net(
        self, fed: Fed, student: nn.Module, run: Callable[[], object]
    ) -> Cause:
        """Find out why something was recorded without a gradient."""
        trained = [p for p in student.parameters() if p.requires_grad]
        recorders = self.distiller.student_recorders
        with Descent(trained) as descent, rehearsed(student, recorders, run):
            found = tensors_of(self.distiller.get_record(**fed.record))
            is_trained = descent.includes(found)
        recorder = recorders.get_recorder(fed.record['recorder'])
        if not is_trained:
            problem = f'Only frozen layers lie before {recorder.source!r}, so the loss '
            problem += 'gives the student no gradient there.'
            remedy = 'Distill a layer after them, or train them: frozen_stages=-1, say.'
            return Cause(problem, remedy, False)
        watch = watch_of(recorder)
        if watch is not None and not watch.with_gradients:
            problem = f'{recorder.source!r} was recorded while gradients were off, so '
            problem += 'the loss gives the student no gradient there.'
            remedy = 'with_cp=True of the student (checkpointing) or torch.no_grad() '
            remedy += 'does that: write with_cp=False, or tap a module around it.'
            return Cause(problem, remedy)
        problem = (
            f'{recorder.source!r} was recorded without a gradient although layers '
        )
        problem += 'that are trained come before it: something in the net detaches it.'
        remedy = 'Tap a module before that, or remove detach() there.'
        return Cause(problem, remedy)


def _is_loaded(connector: nn.Module) -> bool:
    """Tell whether a connector gets weights from a file."""
    for module in connector.modules():
        found = getattr(module, 'init_cfg', None) or []
        for cfg in found if isinstance(found, list) else [found]:
            if class_name(cfg['type']).startswith('Pretrained'):
                return True
    return False


def reached(values: Iterable[Tensor], places: list[list[Tensor]]) -> list[bool]:
    """Tell for each place whether gradients of the values reach it.

    The graph is walked and nothing is computed. A walk ends at the first place on its
    way, because what a place itself was made of is no concern of the values.

    Args:
        values (Iterable[Tensor]): Where gradients begin.
        places (list[list[Tensor]]): For each place its tensors, of which one suffices.
    """
    owners: dict[Edge, set[int]] = {}
    for index, tensors in enumerate(places):
        for tensor in tensors:
            if tensor.requires_grad:
                owners.setdefault(_edge(tensor), set()).add(index)
    found: set[int] = set()
    for edge in edges_behind(values, owners):
        found |= owners.get(edge, set())
    return [index in found for index in range(len(places))]


def edges_behind(
    values: Iterable[Tensor], ends: Container[Edge] = ()
) -> Iterator[Edge]:
    """Yield what gradients of the values reach, once each, but nothing behind an end.

    Args:
        values (Iterable[Tensor]): Where gradients begin.
        ends (Container): Edges at which a walk through the graph ends.
    """
    todo = [_edge(value) for value in values if value.requires_grad]
    visited = set(todo)
    while todo:
        edge = todo.pop()
        yield edge
        if edge not in ends:
            behind = {x for x in edge[0].next_functions if x[0] is not None} - visited
            visited |= behind
            todo.extend(behind)


def _edge(tensor: Tensor) -> Edge:
    """Return what stands for a tensor in the graph: what made it, and which output."""
    node, output, *_ = get_gradient_edge(tensor)
    return node, output
