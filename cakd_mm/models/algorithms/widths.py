"""Fills in the channel numbers of a distiller's config that the nets determine."""

import copy
from collections.abc import Mapping

from torch import nn

from ...utils.errors import describe

CONNECTORS = ('PooledConnector', 'MapConnector')


def fill_widths(distiller: dict, student: nn.Module, teacher: nn.Module) -> dict:
    """Return the distiller's config with the widths that were left out.

    For every loss whose mapping takes ``preds_S`` and ``preds_T`` from two taps,
    ``in_channels`` and ``out_channels`` of the connector in between, ``channels``
    of the loss, and ``channels``, ``num_classes`` and ``share`` of its scorer are
    set where they are missing, so that one method config fits any pair. What is
    written stays.

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
    for name, mapping in (distiller.get('loss_forward_mappings') or {}).items():
        loss = (distiller.get('distill_losses') or {}).get(name)
        ours, theirs = mapping.get('preds_S'), mapping.get('preds_T')
        if (
            loss is None
            or not isinstance(ours, Mapping)
            or not isinstance(theirs, Mapping)
        ):
            continue
        connector = (distiller.get('connectors') or {}).get(ours.get('connector'))
        if isinstance(connector, Mapping) and _kind(connector) in CONNECTORS:
            place = f'model.distiller.connectors.{ours["connector"]}'
            sides = (
                ('in_channels', student, 'student', ours),
                ('out_channels', teacher, 'teacher', theirs),
            )
            for key, net, side, record in sides:
                if connector.get(key) is None:
                    source = _source(distiller, side, record)
                    connector[key] = _width(net, source, f'{place}.{key}')
        _fill_loss(distiller, name, loss, theirs, teacher)
    return distiller


def _fill_loss(distiller, name: str, loss: dict, record, teacher: nn.Module) -> None:
    """Set what a feature loss and its scorer need to know of the teacher."""
    place = f'model.distiller.distill_losses.{name}'
    scorer = loss.get('scorer')
    is_network = isinstance(scorer, Mapping) and _kind(scorer) == 'ScoringNetwork'
    wanting = [loss] if loss.get('standardize') else []
    wanting += [scorer] if is_network else []
    for part in wanting:
        if part.get('channels') is None:
            source = _source(distiller, 'teacher', record)
            suffix = 'channels' if part is loss else 'scorer.channels'
            part['channels'] = _width(teacher, source, f'{place}.{suffix}')
    if is_network:
        scorer.setdefault('share', loss.get('strong_share', 0.5))
        classes = getattr(getattr(teacher, 'head', None), 'num_classes', None)
        if scorer.get('num_classes') is None and classes is not None:
            scorer['num_classes'] = classes


def _kind(cfg: Mapping) -> str:
    """Return the class named by a config, without its registry's scope."""
    return str(cfg.get('type')).rsplit('.', 1)[-1]


def _source(distiller: dict, side: str, record: Mapping) -> str | None:
    recorders = distiller.get(f'{side}_recorders') or {}
    return recorders.get(record.get('recorder'), {}).get('source')


def _width(net: nn.Module, source: str | None, key: str) -> int:
    """Return the channels that the module named ``source`` puts out."""
    if source == 'neck':
        width = getattr(getattr(net, 'head', None), 'in_channels', None)
    else:
        taps = getattr(getattr(net, 'backbone', None), 'tap_channels', {})
        width = taps.get(str(source).removeprefix('backbone.'))
        width = width or _last_width(dict(net.named_modules()).get(source))
    if width is None:
        raise ValueError(
            describe(
                key,
                None,
                f'The width of {source!r} cannot be told from the net.',
                f'Write the number of its channels: {key.rsplit(".", 1)[1]}=64, say.',
            )
        )
    return width


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
