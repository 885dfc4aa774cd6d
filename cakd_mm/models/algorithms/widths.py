"""Fills in the channel numbers of a distiller's config that the nets determine."""

import copy
from collections.abc import Mapping

from torch import nn

from ...utils.errors import describe, nearest
from ..task_modules.taps import points_of

CONNECTORS = ('PooledConnector', 'MapConnector')
# Those whose widths are lists, one entry for each recorder.
LIST_CONNECTORS = ('FusionConnector',)


def fill_widths(distiller: dict, student: nn.Module, teacher: nn.Module) -> dict:
    """Return the distiller's config with the widths that were left out.

    For every loss whose mapping takes ``preds_S`` and ``preds_T`` from two taps, or
    from two lists of taps, these are set where they are missing, so that one method
    config fits any pair: ``in_channels`` and ``out_channels`` of the connectors in
    between, ``channels`` of the loss, ``channels``, ``num_classes`` and ``share`` of
    its scorer, ``channels_S`` and ``channels_T`` of a ``CRDBankLoss``, and
    ``num_classes`` of an instance-wise ``CTKDLoss``. What is written stays.

    Args:
        distiller (dict): Config of the distiller.
        student (nn.Module): The built student.
        teacher (nn.Module): The built teacher.

    Raises:
        ValueError: a width is missing and cannot be told.
    """
    distiller = copy.deepcopy(distiller)
    if not isinstance(distiller, Mapping):
        return distiller
    unknown: dict[str, str] = {}  # the tap of each key that stays empty
    for name, mapping in (distiller.get('loss_forward_mappings') or {}).items():
        loss = (distiller.get('distill_losses') or {}).get(name)
        ours, theirs = mapping.get('preds_S'), mapping.get('preds_T')
        if (
            loss is None
            or not isinstance(ours, Mapping)
            or not isinstance(theirs, Mapping)
        ):
            continue
        _fill_connectors(distiller, ours, theirs, student, teacher, unknown)
        place = f'model.distiller.distill_losses.{name}'
        if _kind(loss) == 'CRDBankLoss':
            source = _source(distiller, 'student', ours.get('recorder'))
            _fill_width(loss, 'channels_S', student, source, place, unknown)
            source = _source(distiller, 'teacher', theirs.get('recorder'))
            _fill_width(loss, 'channels_T', teacher, source, place, unknown)
        _fill_loss(distiller, place, loss, theirs, teacher, unknown)
        if unknown:
            _refuse(unknown)
    return distiller


def _fill_connectors(distiller, ours, theirs, student, teacher, unknown) -> None:
    """Set the widths of the connectors that a mapping of two taps or lists names."""
    names, pairs = ours.get('connector'), None
    taps, others = ours.get('recorder'), theirs.get('recorder')
    if isinstance(names, str):
        pairs = [(names, taps, others)]
    elif _is_list(names) and _is_list(taps) and _is_list(others):
        # Unequal lengths are for the distiller to refuse.
        pairs = zip(names, taps, others, strict=False)
    for name, *sources in pairs or ():
        connectors = distiller.get('connectors') or {}
        connector = connectors.get(name) if isinstance(name, str) else None
        if not isinstance(connector, Mapping):
            continue
        several = _is_list(sources[0])
        kinds = LIST_CONNECTORS if several else CONNECTORS
        if _kind(connector) not in kinds or _is_list(sources[1]) != several:
            continue
        sides = (
            ('in_channels', student, 'student'),
            ('out_channels', teacher, 'teacher'),
        )
        for (key, net, side), source in zip(sides, sources, strict=True):
            if connector.get(key) is None:
                place = f'model.distiller.connectors.{name}.{key}'
                widths = [
                    _width(net, _source(distiller, side, tap), place, unknown)
                    for tap in (source if several else [source])
                ]
                connector[key] = widths if several else widths[0]


def _fill_width(
    part: dict, key: str, net, source: str | None, place: str, unknown: dict
) -> None:
    """Set the width of a tap in a loss or its scorer, if it is not written there."""
    if part.get(key) is None:
        part[key] = _width(net, source, f'{place}.{key}', unknown)


def _fill_loss(
    distiller, place: str, loss: dict, record, teacher: nn.Module, unknown: dict
) -> None:
    """Set what a feature loss and its scorer need to know of the teacher."""
    classes = getattr(getattr(teacher, 'head', None), 'num_classes', None)
    asks = _kind(loss) == 'CTKDLoss' and loss.get('instance_wise')
    if asks and loss.get('num_classes') is None and classes is not None:
        loss['num_classes'] = classes
    scorer = loss.get('scorer')
    is_network = isinstance(scorer, Mapping) and _kind(scorer) == 'ScoringNetwork'
    source = _source(distiller, 'teacher', record.get('recorder'))
    if loss.get('standardize'):
        _fill_width(loss, 'channels', teacher, source, place, unknown)
    if is_network:
        _fill_width(scorer, 'channels', teacher, source, f'{place}.scorer', unknown)
        scorer.setdefault('share', loss.get('strong_share', 0.5))
        if scorer.get('num_classes') is None and classes is not None:
            scorer['num_classes'] = classes


def _kind(cfg: Mapping) -> str:
    """Return the class named by a config, without its registry's scope."""
    return str(cfg.get('type')).rsplit('.', 1)[-1]


def _is_list(value) -> bool:
    return isinstance(value, (list, tuple))


def _source(distiller: dict, side: str, recorder) -> str | None:
    recorders = distiller.get(f'{side}_recorders') or {}
    recorder = recorder if isinstance(recorder, str) else None
    return recorders.get(recorder, {}).get('source')


def _width(
    net: nn.Module, source: str | None, key: str, unknown: dict[str, str]
) -> int | None:
    """Return the channels that the module named ``source`` puts out.

    A width that cannot be told is noted in ``unknown``, by its key.
    """
    if source == 'neck':
        width = getattr(getattr(net, 'head', None), 'in_channels', None)
    else:
        point = points_of(net).get(str(source).removeprefix('backbone.'))
        width = point.channels if point else None
        width = width or _last_width(dict(net.named_modules()).get(source))
    if width is None:
        unknown[key] = f'{source!r}{_absence(net, source)}'
    return width


def _absence(net: nn.Module, source: str | None) -> str:
    """Say that a tap is not there, because then a number is not what is missing."""
    known = {name for name, _ in net.named_modules()} | points_of(net).keys()
    if source is None:
        return ', of which there is no recorder,'
    if source in known:
        return ''
    return f', of which there is no module (like it: {nearest(source, known)}),'


def _refuse(unknown: dict[str, str]) -> None:
    """Ask for all widths of a loss at once that its nets do not tell."""
    taps = ' and of '.join(dict.fromkeys(unknown.values()))
    keys = ' and '.join(f'{key}=64' for key in unknown)
    problem = f'The width of {taps} cannot be told from the net.'
    remedy = f'Correct the recorder, or write the number of its channels: {keys}, say.'
    raise ValueError(describe(next(iter(unknown)), None, problem, remedy))


def _last_width(module: nn.Module | None) -> int | None:
    """Return the width of the last layer within that has one."""
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
