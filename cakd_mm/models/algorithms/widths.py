"""Fills in the channel numbers of a distiller's config that the nets determine."""

import copy
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

from mmrazor.registry import MODELS
from torch import nn

from ...utils.errors import describe, nearest
from ...utils.type_names import resolve_within, resolved
from ..recorders.taps import points_of


def fill_widths(distiller: dict, student: nn.Module, teacher: nn.Module) -> dict:
    """Return the distiller's config with the widths that were left out.

    One method config fits any pair of nets, because loss, scorer and connectors ask for
    their widths by ``wanted_widths`` of their classes. They get them if the mapping of
    the loss takes ``preds_S`` and ``preds_T`` from two taps, or from two lists of taps.
    A width that the config has stays.

    Args:
        distiller (dict): Config of the distiller.
        student (nn.Module): The built student.
        teacher (nn.Module): The built teacher.

    Raises:
        ValueError: a width is missing and the nets do not tell it.
    """
    distiller = resolve_within(copy.deepcopy(distiller))
    for name, mapping in (distiller.get('loss_forward_mappings') or {}).items():
        loss = (distiller.get('distill_losses') or {}).get(name)
        taps = mapping.get('preds_S'), mapping.get('preds_T')
        if loss is None or not all(isinstance(tap, Mapping) for tap in taps):
            continue
        filler = _Filler(distiller, student, teacher, loss)
        for place, connector, ends in _connectors(distiller, *taps):
            filler.fill(connector, place, *ends)
        place = f'model.distiller.distill_losses.{name}'
        # A loss of lists has no single width.
        recorders = [tap.get('recorder') for tap in taps]
        names = [name if isinstance(name, str) else None for name in recorders]
        filler.fill(loss, place, *names)
        filler.fill(loss.get('scorer'), f'{place}.scorer', *names)
        filler.refuse_unknown()
    return distiller


class _Filler:
    """Fills the parts of one loss, and collects the taps whose width is unknown."""

    def __init__(
        self, distiller: Mapping, student: nn.Module, teacher: nn.Module, loss: Mapping
    ) -> None:
        self.distiller = distiller
        self.nets = dict(student=student, teacher=teacher)
        self.loss = loss
        self.unknown: dict[str, str] = {}

    def fill(self, part: Any, place: str, recorder_S: Any, recorder_T: Any) -> None:
        """Set what the class of a part wants and its config leaves out."""
        wanted = getattr(_class_of(part), 'wanted_widths', None)
        if wanted is None:
            return
        for key, source in wanted(part).items():
            if part.get(key) is not None:
                continue
            if source in self.nets:
                recorder = recorder_S if source == 'student' else recorder_T
                part[key] = self._width(source, recorder, f'{place}.{key}')
            elif source == 'classes':
                head = getattr(self.nets['teacher'], 'head', None)
                classes = getattr(head, 'num_classes', None)
                if classes is not None:
                    part[key] = classes
            else:
                kind = _class_of(self.loss)
                default = signature(kind).parameters[source].default if kind else None
                part[key] = self.loss.get(source, default)

    def _width(self, side: str, recorder: Any, key: str) -> Any:
        """Return the width of a recorder's tap, or the widths for a list of them."""
        if _is_list(recorder):
            return [self._width(side, name, key) for name in recorder]
        recorders = self.distiller.get(f'{side}_recorders') or {}
        source = recorders.get(recorder, {}).get('source') if recorder else None
        width = _width_of(self.nets[side], source)
        if width is None:
            if recorder is not None:
                place = f'model.distiller.{side}_recorders.{recorder}'
                self._require(place, side, source)
            self.unknown[key] = repr(source)
        return width

    def _require(self, key: str, side: str, source: Any) -> None:
        """Raise ValueError if a net has nothing that a recorder could tap."""
        net = self.nets[side]
        parts = [*net.named_modules(), *net.named_parameters()]
        known = {name for name, _ in parts if name} | points_of(net).keys()
        if source not in known:
            problem = f'The {side} has nothing of that name.'
            remedy = f'Like it: {nearest(str(source), known)}.'
            raise ValueError(describe(f'{key}.source', source, problem, remedy))

    def refuse_unknown(self) -> None:
        """Raise ValueError that asks for all unknown widths at once."""
        if not self.unknown:
            return
        taps = ' and of '.join(dict.fromkeys(self.unknown.values()))
        keys = ' and '.join(f'{key}=64' for key in self.unknown)
        problem = f'The width of {taps} cannot be told from the net.'
        remedy = f'Write the number of its channels: {keys}, say.'
        raise ValueError(describe(next(iter(self.unknown)), None, problem, remedy))


def _connectors(
    distiller: Mapping, ours: Mapping, theirs: Mapping
) -> list[tuple[str, Any, tuple]]:
    """Return place, config and both recorders of the connectors between two taps."""
    columns: list[Any] = [ours.get('connector'), ours.get('recorder')]
    columns.append(theirs.get('recorder'))
    rows: list[Sequence] = []
    if isinstance(columns[0], str):
        rows = [columns]
    elif all(_is_list(column) for column in columns):
        # The distiller refuses lists of unequal length.
        rows = list(zip(*columns, strict=False))
    connectors = distiller.get('connectors') or {}
    found = []
    for name, *ends in rows:
        connector = connectors.get(name) if isinstance(name, str) else None
        takes_list = getattr(_class_of(connector), 'takes_list', False)
        if all(_is_list(end) == takes_list for end in ends):
            place = f'model.distiller.connectors.{name}'
            found.append((place, connector, tuple(ends)))
    return found


def _class_of(cfg: Any) -> type | None:
    """Return the class that a config names, or None if there is no such class."""
    kind = resolved(cfg.get('type')) if isinstance(cfg, Mapping) else None
    return MODELS.get(kind) if isinstance(kind, str) else kind


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _width_of(net: nn.Module, source: str | None) -> int | None:
    """Return the channels of what the module named ``source`` returns."""
    name, _, rest = str(source).partition('.')
    teachers: dict[str, nn.Module] = getattr(net, 'teachers', {})
    if name in teachers:
        return _width_of(teachers[name], rest)
    if source == 'neck':
        return getattr(getattr(net, 'head', None), 'in_channels', None)
    point = points_of(net).get(str(source).removeprefix('backbone.'))
    width = point.channels if point else None
    return width or _last_width(dict(net.named_modules()).get(source))


def _last_width(module: nn.Module | None) -> int | None:
    """Return the width of the last layer of a module that has a width."""
    if module is None:
        return None
    declared = getattr(module, 'out_channels', None)
    if isinstance(declared, int):
        return declared
    width = None
    for layer in module.modules():
        for attribute in ('num_features', 'out_channels', 'out_features'):
            value = getattr(layer, attribute, None)
            if isinstance(value, int):
                width = value
    return width
