"""Places in nets that score positions: those that detect, and those that segment."""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from ...tasks import task_of
from .dry_run import DryRun
from .layouts import parts_of
from .point import Point
from .stages import find_stages

# A pyramid has fewer levels.
LEVELS = 10
# What mmseg's heads call what computes their loss.
LOSS_MODULE = 'loss_decode'


def find_backbone_stages(net: nn.Module, run: DryRun) -> dict[str, Point]:
    """Return ``stage1`` to ``stage4`` of a net's backbone.

    What follows the backbone has maps of the same sizes, and is no stage.
    """
    backbone: nn.Module | None = getattr(net, 'backbone', None)
    if backbone is None:
        return {}
    own = find_stages(backbone, run.within('backbone'), True)
    return {
        name: replace(point, module=f'backbone.{point.module}'.rstrip('.'))
        for name, point in own.items()
    }


def find_dense_places(net: nn.Module, run: DryRun) -> dict[str, Point]:
    """Return the levels, the scores and the label map of a net, where they exist."""
    return {**_levels(run), **_scores(net, run), **_labels(net)}


def _levels(run: DryRun) -> dict[str, Point]:
    """Return ``fpn0``, ``fpn1`` ..., the maps that a neck gives, in its order."""
    calls = run.calls_of('neck')
    maps = parts_of(calls[-1].output) if calls else []
    return {
        f'fpn{level}': Point('neck', channels=x.shape[1], take=partial(_part, level))
        for level, x in enumerate(maps)
        if isinstance(x, Tensor) and x.dim() == 4
    }


def _part(place: int, output: Any) -> Any:
    return parts_of(output)[place]


def _scores(net: nn.Module, run: DryRun) -> dict[str, Point]:
    """Return ``logits`` of a map, or ``logits0``, ``logits1`` ... of a pyramid.

    They are what a layer gives. A head's own output cannot be recorded, because mmdet
    and mmseg call ``forward`` of their heads, which no hook sees. There is none if one
    of the maps is made in another way.
    """
    task, points = task_of(net), {}
    for name, scores in task.score_maps(net, run.output).items():
        point = _made_by(run, scores)
        if point is None:
            return {}
        points[name] = replace(point, classes=task.scored_classes(net, scores))
    return points


def _made_by(run: DryRun, scores: Tensor) -> Point | None:
    """Return the layer that gave scores, and in which of its calls.

    One layer may score all levels of a pyramid. What is around the layer may not be run
    where the net computes a loss.
    """
    call = next((x for x in run.calls if x.output is scores), None)
    if call is None:
        return None
    place = run.calls_of(call.path).index(call)
    return Point(call.path, channels=scores.shape[1], call=place)


def _labels(net: nn.Module) -> dict[str, Point]:
    """Return what a head that scores pixels gives its loss: scores and label map."""
    head = task_of(net).count_place(net)
    path = f'{head}.{LOSS_MODULE}'
    modules = dict(net.named_modules())
    if isinstance(modules.get(path), nn.ModuleList):  # all are given the same
        path += '.0'
    if path not in modules:
        return {}
    return dict(
        loss_inputs=Point(path, True),
        gt_map=Point(path, True, take=partial(_part, 1)),
    )
