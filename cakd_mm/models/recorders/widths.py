"""The width of what a recorder records, measured on random images."""

from collections.abc import Mapping
from typing import Any

from mmrazor.models.task_modules.recorder import ModuleInputsRecorder
from mmrazor.registry import TASK_UTILS
from torch import Tensor, nn

from ...utils.arguments import class_of
from ..taps import Point, dry_run, owner_of, points_of
from ..taps.layouts import layout_of, only_tensor
from ..taps.stages import map_positions
from .tap_recorder import TapRecorder


def channels_of(net: nn.Module, recorder: Mapping, record: Mapping) -> int | None:
    """Return the channels of a record; None if it is not known.

    Args:
        net (nn.Module): The net.
        recorder (dict): Config of the recorder, with ``type`` and ``source``.
        record (dict): Its ``record_idx`` and ``data_idx``.
    """
    net, source, point = _tap(net, recorder)
    if point is not None:
        return point.channels
    feature = _feature(net, source, recorder, record)
    if isinstance(feature, Tensor) and feature.dim() > 1:
        return feature.shape[1 if feature.dim() == 4 else -1]
    module = dict(net.named_modules()).get(source)
    declared = getattr(module, 'out_channels', None)
    if isinstance(declared, int):
        return declared
    # A tap may tell it of a net that cannot be run.
    places = (x for x in points_of(net).values() if x.module == source)
    return next((x.channels for x in places if not x.takes_input), None)


def extra_tokens_of(net: nn.Module, recorder: Mapping, record: Mapping) -> int | None:
    """Return how many class and register tokens come first in a record.

    0 for a record that is none of tokens, None if it is not known. The arguments are
    those of :func:`channels_of`.
    """
    net, source, point = _tap(net, recorder)
    if point is not None:
        return point.extra_tokens
    run = dry_run(net)
    feature = _feature(net, source, recorder, record)
    if not isinstance(feature, Tensor) or run.images is None:
        return None
    layout = layout_of(feature, len(run.images), map_positions(net, run))
    return 0 if layout is None else layout.extra_tokens


def classes_of_row(net: nn.Module, recorder: Mapping, record: Mapping) -> int | None:
    """Return how many channels of a recorded map of scores are of one box or pixel.

    None for a record that is no tap of such a map. The arguments are those of
    :func:`channels_of`.
    """
    _, _, point = _tap(net, recorder)
    return None if point is None else point.classes


def _tap(net: nn.Module, recorder: Mapping) -> tuple[nn.Module, str, Point | None]:
    """Return the net that has a recorder's source, its name there, and its tap."""
    net, source = owner_of(net, str(recorder.get('source')))
    is_tap = issubclass(_kind(recorder), TapRecorder)
    return net, source, points_of(net).get(source) if is_tap else None


def _kind(recorder: Mapping) -> type:
    return class_of(recorder, TASK_UTILS, 'model.distiller', 'Recorder')


def _feature(net: nn.Module, source: str, recorder: Mapping, record: Mapping) -> Any:
    """Return what a recorder of a module or a parameter gives, in outline."""
    parameters = dict(net.named_parameters())
    if source in parameters:
        return parameters[source]
    calls = dry_run(net).calls_of(source)
    place = record.get('record_idx', 0)
    if not calls or not -len(calls) <= place < len(calls):
        return None
    call = calls[place]
    of_inputs = issubclass(_kind(recorder), ModuleInputsRecorder)
    found = call.inputs if of_inputs else call.output
    index = record.get('data_idx')
    try:
        return only_tensor(found if index is None else found[index])
    except (IndexError, KeyError, TypeError):
        return None
