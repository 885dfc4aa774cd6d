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

    What is built already, and a ``type`` that the registry does not know, are left to
    those who build it. Within a part only classes of ours are looked at, because
    others have builders of their own: mmcv's takes ``requires_grad`` out of a
    ``norm_cfg``, say.

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
    """
    if isinstance(cfg, (list, tuple)):
        for index, part in enumerate(cfg):
            check_part(part, registry, f'{key}.{index}', suffix, only, beside)
        return
    if not isinstance(cfg, Mapping) or cfg.get('type') is None:
        return
    kind = cfg['type']
    if isinstance(kind, str):
        with (
            suppress(RuntimeError),  # mmengine's of a name that it cannot make out
            registry.switch_scope_and_registry(cfg.get('_scope_')) as own,
        ):
            kind = own.get(kind + suffix)
    if not isinstance(kind, type) or not kind.__module__.startswith(only):
        return
    given = {name: value for name, value in cfg.items() if name not in beside}
    check_arguments(kind, given, key)
    for name, part in cfg.items():
        if isinstance(part, Mapping):
            check_part(part, registry, f'{key}.{name}', only=only or 'cakd_mm.')
