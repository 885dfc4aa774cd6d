"""One set of names for the places of all nets that distillation compares."""

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from ...tasks import task_of
from ...utils.errors import describe
from ...utils.model import trunk_of
from .dense_nets import LEVELS, find_backbone_stages, find_dense_places
from .dry_run import dry_run
from .known_nets import known_points
from .point import Point
from .scores import find_scores, gives_scores
from .stages import find_stages

SCORES = frozenset(('logits', *(f'logits{i}' for i in range(LEVELS))))
# What the places are called that nets may have.
NAMES = SCORES | frozenset(
    (
        *('classifier', 'pooled', 'loss_inputs', 'tokens', 'class_token', 'gt_map'),
        *(f'fpn{i}' for i in range(LEVELS)),
        *(f'stage{i}{end}' for i in (1, 2, 3, 4) for end in ('', '_pre', '_norm')),
    )
)


def points_of(net: nn.Module) -> dict[str, Point]:
    """Return the places of a net by name.

    ============================ ====================================================
    ``logits``                   what the classifier gives, (N, K)
    ``classifier``               the layer that makes them, for its parameters
    ``pooled``                   what it gets, (N, C)
    ``stage1`` ... ``stage4``    the last map of each size, (N, C, H, W); in a net of
                                 one size, a ViT, that after each quarter of its
                                 blocks. Tokens are laid out as a map
    ``tokens``                   of a transformer the last tokens, (N, L, C), with the
                                 class token and registers in front
    ``class_token``              the first of them, (N, C)
    ``loss_inputs``              what the net's own loss is given: scores and labels
    ============================ ====================================================

    In a net that detects or segments the stages are those of its backbone, and there
    are:

    ============================ ====================================================
    ``fpn0``, ``fpn1`` ...       what the neck gives, (N, C, H, W), in its order
    ``logits0``, ``logits1`` ... the class scores of a detector's levels, of A boxes at
                                 each position, (N, A * K, H, W)
    ``logits``                   the class scores of a segmentor's head, (N, K, H, W)
    ``gt_map``                   the labels that its loss is given, (N, H', W')
    ============================ ====================================================

    The scores of second stages and of queries are not among them, because those of
    teacher and student mean other boxes.

    ``stage1_pre`` and ``stage1_norm`` come before the ReLU that ends a stage. A few
    nets have more places, see :func:`~.known_nets.known_points`. The first call runs
    the net, see :func:`~.dry_run.dry_run`. The places of several teachers begin with a
    teacher's name: ``r50.stage1``.
    """
    teachers: Mapping[str, nn.Module] | None = getattr(net, 'teachers', None)
    if teachers is None:
        run = dry_run(net)
        if run.points is None:
            known = known_points(net)
            is_dense = task_of(net).is_dense
            stages_in = find_backbone_stages if is_dense else find_stages
            scores_in = find_dense_places if is_dense else find_scores
            stages = {} if 'stage1' in known else stages_in(net, run)
            run.points = {**stages, **scores_in(net, run), **known}
        return dict(run.points)
    points = {}
    for teacher, own in teachers.items():
        for name, point in points_of(own).items():
            module = '.'.join(filter(None, (teacher, point.module)))
            points[f'{teacher}.{name}'] = replace(point, module=module, prepare=None)
    head: nn.Module | None = getattr(net, 'head', None)
    if head is not None:
        points['logits'] = Point('head', channels=getattr(head, 'num_classes', None))
    return points


def owner_of(net: nn.Module, source: str) -> tuple[nn.Module, str]:
    """Return the teacher of several that a source begins with, and the rest of it.

    Args:
        net (nn.Module): A net, or several that teach as one.
        source (str): The name of a place or of a module.

    Returns:
        tuple: ``net`` and ``source`` themselves, if no teacher is named.
    """
    name, _, rest = source.partition('.')
    teachers: Mapping[str, nn.Module] = getattr(net, 'teachers', {})
    return (teachers[name], rest) if name in teachers else (net, source)


def find_point(net: nn.Module, name: str, key: str) -> Point:
    """Return the place of that name.

    Args:
        net (nn.Module): A classifier, or a backbone.
        name (str): As :func:`points_of` has it.
        key (str): The config key, for the error.

    Raises:
        ValueError: the net has no such place.
    """
    points = points_of(net)
    if name not in points:
        raise ValueError(describe(key, name, *why_not(net, name, points)))
    return points[name]


def why_not(net: nn.Module, name: str, points: Mapping[str, Point]) -> tuple[str, str]:
    """Return why a net has no place of that name, and what to write instead."""
    owner, _, rest = name.partition('.')
    if owner in (teachers := getattr(net, 'teachers', {})):
        own_points = {k: v for k, v in points.items() if k.startswith(f'{owner}.')}
        return why_not(teachers[owner], rest, own_points)
    kind = type(net if task_of(net).is_dense else trunk_of(net)).__name__
    problem = f'{kind} has no place of that name.'
    remedy = "Name one of those, or any module with type='ModuleOutputs'."
    is_of_scores = name.rpartition('.')[2] in ('logits', 'classifier')
    if is_of_scores and not gives_scores(net):
        problem = f'{kind} has no classifier, so it scores no classes.'
        remedy = 'Use a method between features, '
        remedy += 'configs/_base_/methods/cakd_feature.py say, or another net.'
    elif name == 'logits' and 'logits0' in points:
        problem = f'{kind} scores each level of its pyramid.'
        remedy = 'Write logits0, or a list of recorders, one for each level.'
    elif name in SCORES and not SCORES & points.keys() and task_of(net).is_dense:
        problem += f' {task_of(net).why_no_score_maps(net)}'
        remedy = 'Compare features: fpn0, or stage4, say.'
    if own := sorted(x for x in points if x.endswith(f'.{name}')):
        problem = 'A teacher of the list has it, and their average has not.'
        remedy = f'Write {" or ".join(own)}.'
    if points:
        problem += f' It has {", ".join(sorted(points))}.'
    else:
        problem += f' Its places are not known: {dry_run(net).failure}.'
        remedy = "Name a module with type='ModuleOutputs'."
    return problem, remedy
