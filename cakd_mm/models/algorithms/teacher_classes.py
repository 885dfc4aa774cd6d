"""Which of a teacher's classes are taught, and what they are called."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...utils.class_names import Names, first_difference
from ...utils.errors import describe, nearest
from ..taps import classifier_of, dry_run, forget_dry_run
from ..taps.scores import layer_width
from .teacher_entries import Keys


@dataclass(frozen=True)
class ClassNames:
    """What a teacher calls the classes that it scores.

    Args:
        scored (tuple[str], optional): In the order of its scores. Defaults to None
            (unknown).
        chosen_from (tuple[str], optional): All that it knows, if the scored ones were
            chosen of them. Defaults to None (not chosen).
        places (tuple[int], optional): The indices that the scored ones have there, if
            they were chosen. Defaults to None (not chosen).
        keys (Keys): Where the config says it, for errors.
        file (str): The teacher's checkpoint, for errors.
    """

    scored: Names | None = None
    chosen_from: Names | None = None
    places: tuple[int, ...] | None = None
    keys: Keys = field(default_factory=Keys, compare=False)
    file: str = field(default='', compare=False)

    def first_difference(
        self, other: 'ClassNames'
    ) -> tuple[int, str | None, str | None] | None:
        """Return place and both names of the first class called otherwise by the other.

        A class that was chosen may be another spelling of the other's, unless the
        teacher of which it was chosen knows the other's name too.
        """
        if self.scored is None or other.scored is None:
            return None

        def are_alike(one: str | None, two: str | None) -> bool:
            return one == two or self._spells(two) or other._spells(one)

        return first_difference(self.scored, other.scored, are_alike)

    def places_of(self, names: Names) -> list[int] | None:
        """Return the index that each of these names has in all that the teacher knows.

        None if one is not there, or is there several times.
        """
        known = self.chosen_from or self.scored or ()
        is_there = all(known.count(name) == 1 for name in names)
        return [known.index(name) for name in names] if is_there else None

    def _spells(self, name: str | None) -> bool:
        return self.chosen_from is not None and name not in self.chosen_from


def choose_classes(
    net: nn.Module, chosen: Sequence[str | int], names: Names | None, key: str
) -> ClassNames:
    """Let a net score these of its classes alone, in this order.

    The rows of its classifier that score the others are removed, so that a softmax is
    over the chosen ones, and what reads its weights or its number of classes agrees.

    Args:
        net (nn.Module): A classifier with its weights, in eval mode afterwards.
        chosen (Sequence[str | int]): A class each, by name or by index from 0.
        names (tuple[str], optional): What its checkpoint calls its classes.
        key (str): The config key of ``chosen``, for errors.

    Returns:
        ClassNames: Which they are, and what they are called if all of them have names.

    Raises:
        ValueError: a class is unknown or chosen twice, or the head cannot be cut.
    """
    net.eval()
    with torch.no_grad():
        images, before = _try(net, key)
    count = before.shape[1]
    places = [
        _place_of(one, count, names, f'{key}.{i}') for i, one in enumerate(chosen)
    ]
    twice = next((i for i, x in enumerate(places) if x in places[:i]), None)
    if twice is not None:
        problem = f'It is class {places[twice]} of the teacher, which is there already.'
        remedy = 'Name another one: each class is taught once.'
        raise ValueError(describe(f'{key}.{twice}', chosen[twice], problem, remedy))
    if not places:
        problem, remedy = 'It names no class.', 'Write one for each of the student.'
        raise ValueError(describe(key, [], problem, remedy))
    _keep(net, places, images, before, key)
    if names is None or max(places) >= len(names):
        return ClassNames(places=tuple(places))
    scored = tuple(names[place] for place in places)
    return ClassNames(scored, names, tuple(places))


def _place_of(one: str | int, count: int, names: Names | None, key: str) -> int:
    """Return the index of one of a teacher's classes."""
    if not isinstance(one, str):
        if 0 <= one < count:
            return int(one)
        problem, remedy = (
            f'The teacher scores {count} classes.',
            f'Write 0 to {count - 1}.',
        )
    elif names is None:
        problem = f"The teacher's checkpoint does not name its {count} classes."
        remedy = 'Write the index of the class, from 0.'
    elif len(names) != count:
        problem = f"The teacher's checkpoint names {len(names)} of its {count} classes."
        remedy = 'Write the index of the class, from 0.'
    elif names.count(one) == 1:
        return names.index(one)
    else:
        problem = 'The teacher has no class of that name.'
        if one in names:
            problem = 'The teacher has several classes of that name.'
        remedy = f'Like it: {nearest(one, set(names))}; or write its index.'
    raise ValueError(describe(key, one, problem, remedy))


@torch.no_grad()
def _keep(
    net: nn.Module, places: list[int], images: Tensor, before: Tensor, key: str
) -> None:
    """Keep some rows of the classifier, and compare what the net then gives."""
    count = before.shape[1]
    for names in _classifiers(net, count):
        whole = {name: net.get_submodule(name) for name in names}
        for name, layer in whole.items():
            _put(net, name, _cut(layer, places, count))
        if _agree(_scores(net, images), before[:, places]):
            for name in names:
                _count_anew(net, name, count, len(places))
            forget_dry_run(net)
            return
        for name, layer in whole.items():
            _put(net, name, layer)
    kind = type(getattr(net, 'head', None) or net).__name__
    problem = f'The last layer of {kind} cannot be cut to some classes.'
    remedy = 'Use a teacher that ends in one Linear layer, as LinearClsHead does, say.'
    raise ValueError(describe(key, places[:8], problem, remedy))


def _classifiers(net: nn.Module, count: int) -> Iterator[list[str]]:
    """Yield layers that may score so many classes, those to try first at first."""
    start = 'head.' if getattr(net, 'head', None) is not None else ''
    found = classifier_of(net)
    layers = [
        name
        for name, layer in net.named_modules()
        if name.startswith(start) and layer_width(layer) == count
    ]
    if found is not None and found in layers:
        yield [found]
    # The last one, or all where a net averages several, as DeiT's does.
    yield layers[-1:]
    yield layers


def _put(net: nn.Module, name: str, layer: nn.Module) -> None:
    """Replace a part of a net."""
    owner, _, leaf = name.rpartition('.')
    setattr(net.get_submodule(owner), leaf, layer)


def _count_anew(net: nn.Module, name: str, before: int, now: int) -> None:
    """Correct the numbers of classes that the parts around a layer hold."""
    head: Any = getattr(net, 'head', None)
    if head is not None:
        head.num_classes = now  # not all heads have noted it
    parts = name.split('.')
    for depth in range(len(parts)):
        part: Any = net.get_submodule('.'.join(parts[:depth]))
        for holder in (part, getattr(part, 'config', None)):
            for number in ('num_classes', 'num_labels'):
                if getattr(holder, number, None) == before:
                    setattr(holder, number, now)


def _cut(layer: nn.Module, places: list[int], count: int) -> nn.Module:
    """Return a layer with some rows, each with all sub-centres that a class has."""
    cut: Any = deepcopy(layer)
    for name in ('weight', 'bias'):
        old = getattr(cut, name, None)
        if old is not None:
            rows = old.unflatten(0, (count, -1))[places].flatten(0, 1)
            setattr(cut, name, nn.Parameter(rows, old.requires_grad))
    for name in ('out_channels', 'out_features'):
        if hasattr(cut, name):
            setattr(cut, name, len(places))
    return cut


def _try(net: nn.Module, key: str) -> tuple[Tensor, Tensor]:
    """Return random images that a net takes, and its scores of them."""
    images = dry_run(net).images
    scores = None if images is None else _scores(net, images)
    if images is not None and scores is not None:
        return images, scores
    problem = f'{type(net).__name__} gives no scores (N, K) for random images, so it '
    problem += 'cannot be seen what becomes of them.'
    remedy = "Use a teacher with a head of one output, head=dict(type='LinearClsHead')."
    raise ValueError(describe(key, type(net).__name__, problem, remedy))


def _scores(net: nn.Module, images: Tensor) -> Tensor | None:
    """Return a net's scores (N, K); None if it does not take the images."""
    try:
        scores = net(images, mode='tensor')
    except (RuntimeError, TypeError, ValueError, AssertionError, IndexError):
        return None
    return scores if isinstance(scores, Tensor) and scores.dim() == 2 else None


def _agree(found: Tensor | None, wanted: Tensor) -> bool:
    if found is None or found.shape != wanted.shape:
        return False
    return torch.allclose(found, wanted, atol=1e-5 * float(wanted.abs().max()))
