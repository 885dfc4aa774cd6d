"""Finds misspelt arguments in a config, before they end in somebody's ``TypeError``."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from inspect import Parameter, signature

from mmengine.registry import Registry
from torch import nn

from .errors import describe, nearest

NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
# Where ``**kwargs`` are the next class's by convention. Others, mmengine's EMAHook for
# one, may give them to something else.
PASSING_ON = (
    'cakd_mm.',
    'mmrazor.models.algorithms.',
    'mmrazor.models.distillers.',
    'mmrazor.models.task_modules.',
    'mmpretrain.datasets.',
)
# What registries read beside the arguments.
OF_REGISTRIES = {'type', '_scope_', '_delete_'}


def arguments_of(kind: type) -> set[str] | None:
    """Return the names of the arguments of a class; None if it may take any.

    The ``**kwargs`` of a class that passes them on are those of the next class in line.
    """
    names: set[str] = set()
    for owner in kind.__mro__:
        if owner in (object, nn.Module):  # which take none by name
            return names - {'self'}
        init = vars(owner).get('__init__')
        if init is None:
            continue
        parameters = signature(init).parameters.values()
        names |= {one.name for one in parameters if one.kind in NAMED}
        if all(one.kind is not Parameter.VAR_KEYWORD for one in parameters):
            return names - {'self'}
        if not owner.__module__.startswith(PASSING_ON):
            break
    return None


def check_arguments(kind: type, given: Mapping, key: str) -> None:
    """Refuse arguments that a class does not take.

    Args:
        kind (type): The class.
        given (Mapping): Arguments in its config, by name.
        key (str): The config's key, ``default_hooks.warmup``, say.

    Raises:
        TypeError: naming key, argument and the nearest that there are.
    """
    known = arguments_of(kind)
    if known is None:
        return
    for name, value in given.items():
        if name not in known | OF_REGISTRIES:
            raise TypeError(
                describe(
                    f'{key}.{name}',
                    value,
                    f'{kind.__name__} has no such argument.',
                    f'Like it: {nearest(name, known)}. If a base has set it for '
                    'another type, write _delete_=True beside yours.',
                )
            )


def check_part(
    cfg,
    registry: Registry,
    key: str,
    suffix: str = '',
    only: str | tuple = '',
    beside: Sequence[str] = (),
) -> None:
    """Refuse misspelt arguments of what a config builds, and of our parts within it.

    What is built already is left alone. Within a part only classes of ours are looked
    at, because others have builders of their own: mmcv's takes ``requires_grad`` out of
    a ``norm_cfg``, say.

    Args:
        cfg (dict | list): A config with a ``type``, or a list of such.
        registry (Registry): Where its type is found.
        key (str): Its config key.
        suffix (str): What mmrazor appends to the type, ``'Recorder'``, say.
            Defaults to none.
        only (str | tuple[str]): Look at classes of these packages alone. Defaults to
            all.
        beside (Sequence[str]): What the builder of such parts reads beside their
            arguments. Defaults to none.

    Raises:
        TypeError: see :func:`check_arguments`.
        KeyError: the registry has no such ``type``.
    """
    if isinstance(cfg, (list, tuple)):
        for index, part in enumerate(cfg):
            check_part(part, registry, f'{key}.{index}', suffix, only, beside)
        return
    if not isinstance(cfg, Mapping) or cfg.get('type') is None:
        return
    kind = cfg['type']
    if isinstance(kind, str):
        kind = _class_named(kind, registry, suffix, cfg.get('_scope_'))
        if kind is None:
            _refuse_type(cfg['type'], registry, suffix, cfg.get('_scope_'), key)
    _check_known(cfg, kind, registry, key, only, beside)


def _check_known(
    cfg: Mapping, kind, registry: Registry, key: str, only, beside
) -> None:
    if not isinstance(kind, type) or not kind.__module__.startswith(only):
        return
    given = {name: value for name, value in cfg.items() if name not in beside}
    check_arguments(kind, given, key)
    for name, part in cfg.items():
        inner = part.get('type') if isinstance(part, Mapping) else None
        if isinstance(inner, str):
            inner = _class_named(inner, registry, '', part.get('_scope_'))
        _check_known(part, inner, registry, f'{key}.{name}', only or 'cakd_mm.', ())


def _class_named(name: str, registry: Registry, suffix: str, scope: str | None):
    """Return the class that a registry has for a type; None if it has none."""
    with (
        suppress(RuntimeError),  # mmengine's of a name that it cannot make out
        registry.switch_scope_and_registry(scope) as own,
    ):
        return own.get(name + suffix)
    return None


def _refuse_type(
    name: str, registry: Registry, suffix: str, scope: str | None, key: str
) -> None:
    """Name what there is like a type that the registry does not know."""
    with registry.switch_scope_and_registry(scope) as own:
        known: set[str] = set()
        place: Registry | None = own
        while place is not None:
            known |= {x for x in place.module_dict if x.endswith(suffix)}
            place = place.parent
    known = {x.removesuffix(suffix) for x in known}
    problem = f'There is no class of that name in the registry of {own.name!r}.'
    remedy = f'Like it: {nearest(name, known)}. A class of your own has to be imported '
    raise KeyError(describe(f'{key}.type', name, problem, f'{remedy}(custom_imports).'))
