"""Classes as the ``type`` of a config, and how a written config names them."""

import builtins
import logging
from collections.abc import Callable
from functools import cache
from inspect import isroutine
from operator import attrgetter
from sys import modules
from typing import Any

import mmengine.registry
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.logging import print_log
from mmengine.registry import Registry
from mmrazor.models.task_modules.delivery.distill_delivery import DistillDelivery
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder

from .errors import describe

LAZY = (LazyAttr, LazyObject)
# Whose classes are in the registries of every process. A class of another package is
# named by its module, because whoever builds it imports that.
ALWAYS_REGISTERED = ('mmengine.', 'mmcv.', 'mmpretrain.', 'mmrazor.', 'torch.')
PLAIN = (str, int, float, list, tuple, dict, type(None))


def resolved(value: Any) -> Any:
    """Return what a lazily imported object of a config is; others stay as they are."""
    return value.build() if isinstance(value, LAZY) else value


def resolve_within(node: Any) -> Any:
    """Resolve, in place, what dicts within a part of a config import lazily.

    mmengine's own dicts do so by themselves when they are read.

    Returns:
        The part.
    """
    if isinstance(node, dict):
        for name, part in dict.items(node):
            dict.__setitem__(node, name, resolve_within(resolved(part)))
    elif isinstance(node, (list, tuple)):
        for part in node:
            resolve_within(part)
    return node


def class_name(kind: Any) -> str:
    """Return the name of a class alone, however the ``type`` of a config says it."""
    kind = resolved(kind)
    if not isinstance(kind, str):
        return kind.__name__
    return kind.replace('/', '.').rpartition('.')[2]  # torchvision/Normalize, say


def as_written(node: Any, dict_type: type | None = None) -> Any:
    """Return a part of a config with names in the place of classes and functions.

    mmengine writes a class as text that nobody can read back, and one that is imported
    lazily, even if it is a number, by its path.

    Args:
        node: The part, in dicts, lists and tuples.
        dict_type (type, optional): What dicts become. Defaults to None, what they are.
    """
    if isinstance(node, dict):
        # The plain method, because that of mmengine's dicts imports what is lazy.
        parts = [(k, v) for k, v in dict.items(node) if not _is_left_out(k, v)]
        return (dict_type or type(node))(
            {k: as_written(v, dict_type) for k, v in parts}
        )
    if isinstance(node, (list, tuple)):
        return type(node)(as_written(part, dict_type) for part in node)
    if isinstance(node, LAZY):
        path = f'{node.module}.{node}'
        try:
            node = node.build()
        except Exception:  # whatever importing raises; who builds it will say so
            return path
        if isinstance(node, PLAIN):
            return as_written(node, dict_type)
        if not _is_code(node):
            return path
    return name_of(node) if _is_code(node) and not _is_builtin(node) else node


def name_of(value: Callable) -> str:
    """Return the ``type`` by which a config names a class or function.

    It is the registered name, with its scope where needed, or the path of the object:
    ``SGD``, ``mmpretrain.ResNet`` and ``my_package.nets.Net``. What no other process
    finds is mentioned in the log.
    """
    if value.__module__ == '__main__' or not _is_in(value, value.__module__):
        _mention(value)
    name = _path_of(value)
    if isinstance(value, type) and issubclass(value, (BaseRecorder, DistillDelivery)):
        # mmrazor appends this to the type.
        name = _registered_name(value, scoped=False) or name
        return name.removesuffix('Recorder').removesuffix('Delivery')
    return (name.startswith(ALWAYS_REGISTERED) and _registered_name(value)) or name


def require_names(node: Any, key: str) -> None:
    """Refuse what no written config can name: a class of a function or of a config.

    Args:
        node: A part of a config.
        key (str): Its config key.

    Raises:
        ValueError: naming the key of the class.
    """
    if isinstance(node, dict):
        for name, part in dict.items(node):
            require_names(part, f'{key}.{name}')
    elif isinstance(node, (list, tuple)):
        for index, part in enumerate(node):
            require_names(part, f'{key}.{index}')
    elif _is_code(node) and not _is_builtin(node) and not _is_in(node, node.__module__):
        problem = 'It is defined in a function or in the config, so no config that is '
        problem += 'written, such as student.py, can name it.'
        remedy = 'Move it into a module, and import it from there.'
        raise ValueError(describe(key, node.__qualname__, problem, remedy))


def _is_in(value: Callable, module: str | None) -> bool:
    """Tell whether a module has a class or function under its own name."""
    try:
        return attrgetter(value.__qualname__)(modules[str(module)]) is value
    except (AttributeError, KeyError):
        return False


def _path_of(value: Callable) -> str:
    """Return the shortest path of a class or function, which is the public one."""
    parts = str(value.__module__).split('.')
    names = ['.'.join(parts[:end]) for end in range(1, len(parts))]
    module = next((x for x in names if _is_in(value, x)), value.__module__)
    return f'{module}.{value.__qualname__}'


def _registered_name(value: Callable, scoped: bool = True) -> str | None:
    """Return the name under which a registry of the OpenMMLab stack has a class."""
    for root in vars(mmengine.registry).values():
        if not isinstance(root, Registry):
            continue
        for registry in (root, *root.children.values()):
            names = [k for k, kind in registry.module_dict.items() if kind is value]
            if not names:
                continue
            name = value.__name__ if value.__name__ in names else names[0]
            # A scope's own class comes before that of the root, which has no scope.
            others = [x.module_dict.get(name, value) for x in root.children.values()]
            plain = registry is root and all(other is value for other in others)
            return f'{registry.scope}.{name}' if scoped and not plain else name
    return None


def _is_code(value: Any) -> bool:
    # Whether it can be called is asked first, because nearly nothing in a config can.
    return callable(value) and (isinstance(value, type) or isroutine(value))


def _is_builtin(value: Callable) -> bool:
    return getattr(builtins, value.__name__, None) is value


def _is_left_out(name: Any, value: Any) -> bool:
    """Tell whether an entry is a class or function that a config's text made.

    mmengine keeps what its text imports or defines as entries of that name.
    """
    if not _is_code(value) or _is_builtin(value) or value.__name__ != name:
        return False
    return isinstance(value, type) or value.__module__ in (None, 'builtins')


@cache
def _mention(value: Callable) -> None:
    print_log(
        f'A written config names {value.__qualname__} as {_path_of(value)}, which no '
        'other process finds: move it into a module that can be imported.',
        'current',
        logging.WARNING,
    )
