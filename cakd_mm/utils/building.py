"""Names the key of a part of a config whose building, or whose use, goes wrong."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.registry import Registry

from .agreement import is_of_waiting
from .arguments import (
    class_of,
    fault_of,
    parameters_of,
    parts_within,
    require_part,
)
from .errors import describe

KINDS = (KeyError, TypeError, ValueError)
# No mistake in the part: a file is missing, or the device is full.
OTHERWISE = (OSError, torch.cuda.OutOfMemoryError)
# Config key and value of a name that the text of an error may mention.
Places = Mapping[str, tuple[str, Any]]


@contextmanager
def naming_errors(cfg: Any, registry: Registry, key: str) -> Iterator[None]:
    """Let errors of building a part name its key.

    Args:
        cfg (dict): The config that is built.
        registry (Registry): Where its type is found.
        key (str): Its config key.

    Raises:
        KeyError, TypeError, ValueError: it cannot be built; the key is that of the
            argument, or of the part within it, that its class refuses.
    """
    require_part(cfg, key)
    try:
        yield
    except OTHERWISE:
        raise
    except Exception as error:
        if is_of_waiting(error) or f'`{key}' in str(error):
            raise
        raise _located(error, cfg, registry, key) from error


def build_part(cfg: Any, registry: Registry, key: str) -> Any:
    """Build what a config describes; see :func:`naming_errors`."""
    with naming_errors(cfg, registry, key):
        return registry.build(cfg)


def _located(error: Exception, cfg: Mapping, registry: Registry, key: str) -> Exception:
    """Return an error that says where in a config the cause of an error is."""
    with registry.switch_scope_and_registry(cfg.get('_scope_')) as own:
        try:
            require_part(cfg, key)
            kind = class_of(cfg, own, key)
        except KINDS as shape:
            return shape
        for place, part in parts_within(cfg, key):
            try:
                own.build(part)
            except Exception as inner:  # anything may be wrong in it
                if _text(inner) and _text(inner) in _text(error):
                    return _located(inner, part, own, place)
    fault = fault_of(kind, cfg, key)
    if fault is not None:
        return fault.error()
    names = dict.fromkeys(parameters_of(kind)[0]) | dict(cfg)
    places = places_of(names, key)
    places.pop('type')
    return _rekeyed(error, kind.__name__, key, f'dict(type={cfg["type"]!r})', places)


@contextmanager
def naming_use(
    subject: str, key: str, value: Any, places: Callable[[], Places]
) -> Iterator[None]:
    """Let errors of using a part name a config key.

    It is the key of the name that the text mentions first. If it mentions none, all of
    them are shown.

    Args:
        subject (str): What is used, the name of a class, say.
        key (str): The config key of the part.
        value: What to show for it.
        places (Callable): Returns what the text may mention, by name, with config key
            and value.

    Raises:
        KeyError, TypeError, ValueError: the part cannot be used.
    """
    try:
        yield
    except OTHERWISE:
        raise
    except Exception as error:
        is_device = _text(error).startswith('CUDA')  # which has failed
        is_named = _text(error).startswith('`model.')
        if is_device or is_named or is_of_waiting(error):
            raise
        raise _rekeyed(error, subject, key, value, places()) from error


def places_of(given: Mapping, key: str) -> dict[str, tuple[str, Any]]:
    """Return config keys and values of what is written in a part, by name."""
    return {name: (f'{key}.{name}', value) for name, value in given.items()}


def settings_of(part: object, key: str) -> dict[str, tuple[str, Any]]:
    """Return the arguments that an object still has, with their config keys."""
    names = (name for name in parameters_of(type(part))[0] if hasattr(part, name))
    return places_of({name: getattr(part, name) for name in names}, key)


def _rekeyed(
    error: Exception, subject: str, key: str, value: Any, places: Places
) -> Exception:
    """Return an error of a part as one that names a config key."""
    text = _text(error)
    found = {
        mention.start(): place
        for word, place in places.items()
        if (mention := re.search(rf'\b{re.escape(str(word))}\b', text))
    }
    leaves = (leaf for place in places.values() for leaf in _leaves(*place))
    shown = ', '.join(dict.fromkeys(f'{place}={x!r:.60}' for place, x in leaves))
    remedy = f'Correct what is wrong in {shown or "its type"}.'
    if isinstance(error, ImportError):
        remedy = 'Install what is missing.'
    elif found:
        (key, value), *others = (found[start] for start in sorted(found))
        remedy = ' or '.join(['Correct it', *(place for place, _ in others)]) + '.'
    # The class may have named a key of its own, which is shorter.
    named = re.match(r'`[\w.]+` = ', text)
    rest = text[named.end() :] if named else ''
    if rest.startswith(f'{value!r}: '):
        problem, _, remedy = rest.removeprefix(f'{value!r}: ').partition('. ')
        problem = f'{problem}.'
    else:
        problem = f'{subject} refuses it: {text.rstrip(".")}.'
    described = describe(key, value, problem, remedy)
    return next(
        (kind(described) for kind in KINDS if isinstance(error, kind)),
        ValueError(described),
    )


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield config key and value of all that is within a value."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    if not value or not items:
        yield key, value
    for name, part in items:
        yield from _leaves(f'{key}.{name}', part)


def _text(error: Exception) -> str:
    """Return the text of an error, which KeyError would quote."""
    return str(error.args[0]) if isinstance(error, KeyError) else str(error)
