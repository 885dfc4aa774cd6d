"""Fills in the channel numbers of a distiller's config that the nets determine."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

from mmrazor.registry import MODELS
from torch import nn

from ...utils.arguments import parameters_of
from ...utils.errors import describe, nearest
from ...utils.type_names import resolve_within, resolved
from ..distillers.distiller_config import each_record
from ..recorders.widths import channels_of, classes_of_row, extra_tokens_of
from ..taps import classes_of, dry_run, points_of

# What a net is asked for, by what follows its name in a source of `wanted_widths`.
MEASURES = {
    '': channels_of,
    'extra_tokens': extra_tokens_of,
    'row_classes': classes_of_row,
}


def fill_widths(distiller: dict, student: nn.Module, teacher: nn.Module) -> dict:
    """Return the distiller's config with the widths that were left out.

    One method config fits any pair of nets, because loss, scorer and connectors ask for
    their widths by ``wanted_widths`` of their classes. They get them if the mapping of
    the loss takes ``preds_S`` and ``preds_T`` from two taps, or from two lists of taps.
    They are measured, see :func:`dry_run`. A width that the config has stays.

    A loss within a loss is its ``loss``. If the class says ``by_level``, as
    :class:`LevelLoss` does, ``loss`` becomes a list with one config for each of the
    taps of a list, with the widths of these.

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
        for place, connector, ends in _connectors(distiller, taps[1], taps[1]):
            filler.fill_of_teacher(connector, place, ends[1])
        place = f'model.distiller.distill_losses.{name}'
        filler.fill_within(loss, place, [_records(tap) for tap in taps], loss)
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

    def fill_within(
        self, part: Any, place: str, ends: Sequence[Any], owner: Mapping
    ) -> None:
        """Fill a loss, or a scorer, and the scorers and losses within it.

        Args:
            part (dict): The config of the part, which is changed.
            place (str): Its config key.
            ends (Sequence): What each net gives it, see :func:`_records`.
            owner (dict): The config of the loss that a scorer belongs to.
        """
        if not isinstance(part, dict):
            return
        # A loss of lists has no single width.
        ours, theirs = ({} if _is_list(record) else record for record in ends)
        self.fill(part, place, ours, theirs, owner)
        # A scorer may have a scorer of its own.
        self.fill_within(part.get('scorer'), f'{place}.scorer', ends, owner)
        inner, place = part.get('loss'), f'{place}.loss'
        if getattr(_class_of(part), 'by_level', False):
            levels = _levels_of(part, ends)
            if levels:
                part['loss'] = [one for one, _ in levels]
            for index, (one, own_ends) in enumerate(levels):
                self.fill_within(one, f'{place}.{index}', own_ends, one)
        elif isinstance(inner, Mapping):
            self.fill_within(inner, place, ends, inner)

    def fill(
        self,
        part: Any,
        place: str,
        ours: Any,
        theirs: Any,
        owner: Mapping | None = None,
    ) -> None:
        """Set what the class of a part wants and its config leaves out.

        The arguments are those of :meth:`fill_within`. The owner is the loss itself by
        default.
        """
        wanted = getattr(_class_of(part), 'wanted_widths', None)
        if wanted is None:
            return
        for key, source in wanted(part).items():
            if part.get(key) is not None:
                continue
            side, _, what = source.partition('_')
            if side in self.nets and what in MEASURES:
                record = ours if side == 'student' else theirs
                value = self._measured(side, record, f'{place}.{key}', MEASURES[what])
                if value is not None:
                    part[key] = value
            elif source == 'classes':
                # A teacher without a classifier teaches the student's classes.
                counts = map(classes_of, (self.nets['teacher'], self.nets['student']))
                classes = next((x for x in counts if x is not None), None)
                if classes is not None:
                    part[key] = classes
            else:
                owner = self.loss if owner is None else owner
                part[key] = _of_owner(owner, source, f'{place}.{key}')

    def fill_of_teacher(self, part: Any, place: str, theirs: Any) -> None:
        """Tell a connector on the teacher's side how many tokens are in front.

        It gets no widths, because nothing would train a layer of it.
        """
        wanted = getattr(_class_of(part), 'wanted_widths', None)
        for key, source in (wanted(part) if wanted else {}).items():
            if source == 'student_extra_tokens' and part.get(key) is None:
                key_of_it = f'{place}.{key}'
                part[key] = self._measured(
                    'teacher', theirs, key_of_it, extra_tokens_of
                )

    def _measured(
        self, side: str, record: Any, key: str, measure: Callable[..., int | None]
    ) -> Any:
        """Return the width of a record, or the widths for a list of them."""
        if isinstance(record, list):
            return [self._measured(side, one, key, measure) for one in record]
        recorders = self.distiller.get(f'{side}_recorders') or {}
        name = record.get('recorder')
        recorder = recorders.get(name) if isinstance(name, str) else None
        width = None
        if recorder is not None:
            width = measure(self.nets[side], recorder, record)
        if width is None and measure is channels_of:
            source = (recorder or {}).get('source')
            if recorder is not None:
                place = f'model.distiller.{side}_recorders.{name}'
                self._require(place, side, source)
            self.unknown[key] = repr(source)
        return width

    def _require(self, key: str, side: str, source: Any) -> None:
        """Raise ValueError if a net has nothing that a recorder could tap."""
        net = self.nets[side]
        parts = [*net.named_modules(), *net.named_parameters()]
        known = {name for name, _ in parts if name}
        points = points_of(net)
        if source not in known and source not in points:
            problem = f'The {side} has nothing of that name.{_failure_of(net)}'
            like = nearest(str(source), known | points.keys())
            remedy = f'Like it: {like}. By what they mean there are: '
            remedy += f'{", ".join(sorted(points)) or "none"}.'
            raise ValueError(describe(f'{key}.source', source, problem, remedy))

    def refuse_unknown(self) -> None:
        """Raise ValueError that asks for all unknown widths at once."""
        if not self.unknown:
            return
        taps = ' and of '.join(dict.fromkeys(self.unknown.values()))
        keys = ' and '.join(f'{key}=64' for key in self.unknown)
        problem = f'The width of {taps} cannot be told from the net.'
        problem += ''.join(dict.fromkeys(map(_failure_of, self.nets.values())))
        remedy = f'Write the number of its channels: {keys}, say.'
        raise ValueError(describe(next(iter(self.unknown)), None, problem, remedy))


def _of_owner(owner: Mapping, name: str, key: str) -> Any:
    """Return an argument of a loss, which has its default if the config has none.

    Raises:
        ValueError: neither the config nor the class has it.
    """
    kind = _class_of(owner)
    known = parameters_of(kind)[0] if kind else {}
    defaults = {k: x.default for k, x in known.items() if x.default is not x.empty}
    if kind and name not in {*owner, *defaults}:
        sources = ('student', 'teacher', 'classes', *known)
        problem = f'It is taken from {name!r}, of which {kind.__name__} has no value.'
        remedy = f'Write {key}, or correct the source in `wanted_widths`; like it: '
        raise ValueError(describe(key, None, problem, remedy + nearest(name, sources)))
    return owner.get(name, defaults.get(name))


def _levels_of(part: Mapping, ends: Sequence[Any]) -> list[tuple[Any, Sequence[Any]]]:
    """Return config and what feeds it of the loss of each level; none if unknown.

    A single tap may give a list of all levels, whose widths are not known.
    """
    inner, levels = part.get('loss'), part.get('levels')
    if not all(map(_is_list, ends)):
        count = len(inner) if _is_list(inner) else levels
        ends = [[{}] * (count or 0) for _ in ends]
    counts = {len(end) for end in ends}
    if isinstance(inner, Mapping) and levels in (None, *counts):
        inner = [inner] * len(ends[0])
    if not _is_list(inner) or counts != {len(inner)}:
        return []  # which the loss refuses
    # Each level is filled with widths of its own, also where a list repeats one config.
    own = [copy.deepcopy(one) for one in inner]
    return list(zip(own, zip(*ends, strict=True), strict=True))


def _failure_of(net: nn.Module) -> str:
    """Return a sentence if a net has not told its taps and widths, '' otherwise."""
    failure = dry_run(net).failure
    return f' It could not be run on random images: {failure}.' if failure else ''


def _records(entry: Mapping) -> Any:
    """Return what each recorder of an entry of a mapping gives, a list for a list."""
    records = each_record(entry)
    return records if _is_list(entry['recorder']) else records[0]


def _connectors(
    distiller: Mapping, ours: Mapping, theirs: Mapping
) -> list[tuple[str, Any, tuple]]:
    """Return place, config and what feeds them of the connectors between two taps."""
    columns: list[Any] = [ours.get('connector'), _records(ours), _records(theirs)]
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


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, (list, tuple))
