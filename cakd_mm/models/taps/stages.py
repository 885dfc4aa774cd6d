"""Where a net's maps are: found in what it computed of random images."""

import re
from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

from torch import Tensor, nn

from .dry_run import Call, DryRun
from .layouts import Layout, layout_of, only_tensor, parts_of
from .point import Point
from .scores import gives_scores, layer_width

STAGES = 4
RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU)
LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# What nets call the parameter that becomes the class token.
CLASS_TOKEN = re.compile(r'(^|[._])(cls|class)_(token|embedding)s?$')


@dataclass(frozen=True)
class Unit:
    """A feature with positions that a part of a net's trunk has given.

    Args:
        path (str): Name of the module.
        place (int): Which of its outputs it is.
        layout (Layout): How it is laid out.
    """

    path: str
    place: int
    layout: Layout

    def point(self, take: Callable[[Tensor], Tensor], extra_tokens: int = 0) -> Point:
        """Return the place of what ``take`` makes of the feature."""
        return Point(
            self.path,
            channels=self.layout.channels,
            extra_tokens=extra_tokens,
            take=partial(_taken, take, self.place),  # which can be pickled
        )


def _taken(take: Callable[[Tensor], Tensor], place: int, output: Any) -> Tensor:
    return take(parts_of(output)[place])


def find_stages(
    net: nn.Module, run: DryRun, is_backbone: bool = False
) -> dict[str, Point]:
    """Return ``stage1`` to ``stage4``, ``tokens`` and ``class_token``, if they exist.

    A stage is the last map of its size, and the last four sizes count. If a net has one
    size alone, as a ViT has, the stages end after the quarters of its blocks. Where a
    net keeps its tokens in an order of its own, only the last stage is given.
    ``stage1_pre`` is the map before a ReLU that ends the stage, and ``stage1_norm`` the
    batch normalisation before that. Of any other stage ``stage1_pre`` is the same map.

    Args:
        net (nn.Module): The net.
        run (DryRun): What it has computed.
        is_backbone (bool): Whether the net is a backbone, the maps of which are for
            others. A stage is then what it gives of that size. If it gives four maps or
            more, these are the stages, because those of a dilated net have one size.
            Defaults to False.
    """
    units = _units(net, run)
    ends = _last_of_sizes(net, run, units)
    if is_backbone:
        given = _outputs(net, run)
        like = {(unit.layout.size, unit.layout.channels): unit for unit in given}
        ends = [like.get((x.layout.size, x.layout.channels), x) for x in ends]
        ends = given if len(given) >= STAGES else ends
    ends = ends[-STAGES:]
    # Hiera has its tokens in the order of its windows until one is left of each.
    names = 'unroll', 'unroll_schedule'
    is_reordered = any(hasattr(x, name) for x in net.modules() for name in names)
    points: dict[str, Point] = {}
    for index, unit in enumerate(ends, 1):
        if is_reordered and unit is not ends[-1]:
            continue
        name, point = f'stage{index}', unit.point(unit.layout.as_map)
        points |= {name: point, f'{name}_pre': point}
        if unit.layout.kind == 'map':
            points |= _rectified(net, run, unit, name)
    return points | _tokens(net, units)


def _outputs(net: nn.Module, run: DryRun) -> list[Unit]:
    """Return the maps that a net gives, each as the part that made it gives it."""
    if run.images is None:
        return []
    images, positions = len(run.images), map_positions(net, run)
    calls = _called_once(run, set(_trunk(net, run)))
    units = []
    for place, output in enumerate(parts_of(run.output)):
        layout = layout_of(output, images, positions)
        if layout is not None:
            made = [Unit(x.path, 0, layout) for x in calls if x.output is output]
            units.append([Unit('', place, layout), *made][-1])
    return units


def _last_of_sizes(net: nn.Module, run: DryRun, units: list[Unit]) -> list[Unit]:
    """Return the last map of each size; of one size, that of each quarter of blocks."""
    ends: list[Unit] = []
    for unit, following in reversed([*zip(units, [*units[1:], None], strict=False)]):
        if not ends or unit.layout.size > ends[0].layout.size:
            ends.insert(0, _before_smaller(net, run, unit, following))
    return _quarters(net, units) if len(ends) == 1 else ends


def _before_smaller(
    net: nn.Module, run: DryRun, end: Unit, following: Unit | None
) -> Unit:
    """Return the last map of a size, with which the following part may begin.

    A stage of Hugging Face's Swin is a list of blocks and what makes the map smaller.
    """
    if following is None:
        return end
    part = net.get_submodule(following.path)
    lists = {
        f'{following.path}.{name}'
        for name, child in part.named_children()
        if isinstance(child, nn.ModuleList)
    }
    blocks = {x.path for x in run.calls if x.path.rpartition('.')[0] in lists}
    size = end.layout.size, end.layout.channels
    inner = [
        x
        for x in _features(net, run, blocks)
        if (x.layout.size, x.layout.channels) == size
    ]
    return inner[-1] if inner else end


def _rectified(net: nn.Module, run: DryRun, unit: Unit, stage: str) -> dict[str, Point]:
    """Return the places before the ReLU that ends a stage, if one does."""
    paths = [call.path for call in run.calls]
    end = len(paths) - 1 - paths[::-1].index(unit.path)
    start = f'{unit.path}.'
    own = [path for path in paths[: end + 1] if f'{path}.'.startswith(start)]
    leaves = {x: net.get_submodule(x) for x in own}
    leaves = {x: module for x, module in leaves.items() if not any(module.children())}
    last = next((x for x in reversed(own) if x in leaves), None)
    if last is None or not isinstance(leaves[last], RECTIFIERS):
        return {}
    width = unit.layout.channels
    points = {f'{stage}_pre': Point(last, True, width, take=only_tensor)}
    norms = [
        path
        for path, module in leaves.items()
        if isinstance(module, nn.BatchNorm2d) and module.num_features == width
    ]
    if norms:
        points[f'{stage}_norm'] = Point(norms[-1])
    return points


def _quarters(net: nn.Module, units: list[Unit]) -> list[Unit]:
    """Return the ends of the four quarters of the longest list of blocks."""
    lists: dict[str, list[Unit]] = {}
    for unit in units:
        owner = unit.path.rpartition('.')[0]
        if _is_list(net.get_submodule(owner)):
            lists.setdefault(owner, []).append(unit)
    blocks = max(lists.values(), key=len, default=units[-1:])
    ends = [ceil(quarter * len(blocks) / STAGES) - 1 for quarter in (1, 2, 3, 4)]
    return [blocks[end] for end in dict.fromkeys(ends)]


def _tokens(net: nn.Module, units: list[Unit]) -> dict[str, Point]:
    """Return the places of the last tokens, and of the class token among them."""
    if not units or units[-1].layout.kind != 'tokens':
        return {}
    last = units[-1]
    extra = last.layout.extra_tokens
    points = {'tokens': last.point(_all_tokens, extra)}
    if extra and has_class_token(net):
        points['class_token'] = last.point(_first_token)
    return points


def has_class_token(net: nn.Module) -> bool:
    """Tell whether a net has a parameter that becomes its class token."""
    return any(CLASS_TOKEN.search(name) for name, _ in net.named_parameters())


def _all_tokens(tokens: Tensor) -> Tensor:
    return tokens


def _first_token(tokens: Tensor) -> Tensor:
    return tokens[:, 0]


def _units(net: nn.Module, run: DryRun) -> list[Unit]:
    """Return the features of a net's trunk in their order.

    There are none if the last one is of an unknown form, because the others are then
    not those that the scores are made of. Scores of each position are none of them.
    """
    if run.images is None:
        return []
    images, positions = len(run.images), map_positions(net, run)
    trunk = set(_trunk(net, run))
    for call in reversed(_called_once(run, trunk)):
        parts = [x for x in parts_of(call.output) if isinstance(x, Tensor)]
        if any(part.is_meta and part.dim() > 2 for part in parts):
            if not any(layout_of(part, images, positions) for part in parts):
                return []
            break
    units = _features(net, run, trunk)
    return units[: _scored(net, run, units)]


def _called_once(run: DryRun, paths: Container[str]) -> list[Call]:
    """Return the calls of modules of which a recorder has no other call.

    It would have all calls of a module, a common activation say.
    """
    times = Counter(call.path for call in run.calls)
    return [x for x in run.calls if x.path in paths and times[x.path] == 1]


def _scored(net: nn.Module, run: DryRun, units: list[Unit]) -> int | None:
    """Return the first unit that scores positions, after which all do; None if none."""
    if not isinstance(run.output, Tensor) or not gives_scores(net):
        return None
    classes = run.output.shape[1]
    first = None
    for index, unit in reversed([*enumerate(units)]):
        if unit.layout.channels != classes:
            break
        if layer_width(net.get_submodule(unit.path)) == classes:
            first = index
    return first


def _features(net: nn.Module, run: DryRun, paths: Container[str]) -> list[Unit]:
    """Return what modules gave that has positions, in its order."""
    if run.images is None:
        return []
    images, positions = len(run.images), map_positions(net, run)
    units: list[Unit] = []
    for call in _called_once(run, paths):
        # What it gives has a size of its own, whatever that of the net's maps is.
        if isinstance(net.get_submodule(call.path), nn.AdaptiveAvgPool2d):
            continue
        parts = [x for x in parts_of(call.output) if isinstance(x, Tensor)]
        layouts = [layout_of(part, images, positions) for part in parts]
        units += [Unit(call.path, i, x) for i, x in enumerate(layouts) if x is not None]
    return units


def map_positions(net: nn.Module, run: DryRun) -> set[int]:
    """Return how many positions the maps have that a net's convolutions give."""
    return {
        call.output.shape[2:].numel()
        for call in run.calls
        if isinstance(net.get_submodule(call.path), nn.Conv2d)
    }


def _trunk(net: nn.Module, run: DryRun) -> Iterator[str]:
    """Yield the parts of which a net is a sequence: blocks, layers and lists of them.

    A list is opened, and so is a module that holds more than half of the weights of all
    that has positions. What is in a block is left out, because it has maps of its own.
    """
    placed = {
        call.path
        for call in run.calls
        if isinstance(call.output, Tensor) and call.output.is_meta
    }

    def weights(path: str, module: nn.Module) -> int:
        return sum(
            x.numel()
            for name, part in module.named_modules(prefix=path)
            if name in placed
            for x in part.parameters(recurse=False)
        )

    half = weights('', net) / 2
    opened = [('', net)]
    while opened:
        path, module = opened.pop()
        for name, child in module.named_children():
            own = f'{path}.{name}' if path else name
            is_most = weights(own, child) > half
            is_wrapper = is_most and not isinstance(module, LISTS)
            if _is_list(child) or is_wrapper:
                opened.append((own, child))
            if _is_list(child) or not is_wrapper:
                yield own


def _is_list(module: nn.Module) -> bool:
    """Tell whether a module is a plain list; a block may be derived from one."""
    plain = nn.Sequential.forward, nn.Module.forward
    return isinstance(module, LISTS) and type(module).forward in plain
