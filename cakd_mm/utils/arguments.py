"""Finds wrong arguments in a config, before they end in somebody's ``TypeError``."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from inspect import Parameter, signature
from numbers import Number
from types import NoneType
from typing import Any, get_type_hints

from mmengine.registry import Registry
from torch import nn

from .errors import describe, nearest
from .schema import Fault, find_fault, spell
from .type_names import resolved

NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
# Where ``**kwargs`` are the next class's by convention, unless a class says of itself
# ``passes_on = False``. Others, mmengine's EMAHook for one, may give them to something
# else.
PASSING_ON = (
    'cakd_mm.',
    'mmrazor.models.algorithms.',
    'mmrazor.models.distillers.',
    'mmrazor.models.task_modules.',
    'mmpretrain.datasets.',
)
# Whose hints are true, so that all values are checked against them.
TRULY_HINTED = ('cakd_mm.', 'mmrazor.')
# Whose hints leave out much that their classes take, such as a list of necks, or a
# number as the scale of a loss. Only what is never left out is checked.
LOOSELY_HINTED = ('mmpretrain.', 'mmengine.', 'torch.optim.')
NEVER_LEFT_OUT = (str, bool, NoneType)
HINTED = TRULY_HINTED + LOOSELY_HINTED
# What registries read beside the arguments.
OF_REGISTRIES = {'type', '_scope_', '_delete_'}


def parameters_of(call: Callable) -> tuple[dict[str, Parameter], bool]:
    """Return the parameters of a class or function, and whether it takes no others.

    The ``**kwargs`` of a class that passes them on are those of the next class in line.
    The annotations are evaluated. Parameters of the classes behind it have a default,
    because the class may give them itself.
    """
    found: dict[str, Parameter] = {}
    if not isinstance(call, type):
        return _named(call)
    for owner in call.__mro__:
        if owner in (object, nn.Module):  # which take none by name
            return found, True
        init = vars(owner).get('__init__')
        if init is None:
            continue
        parameters, is_all = _named(init)
        is_behind = bool(found)
        for name, one in parameters.items():
            if is_behind and one.default is Parameter.empty:
                one = one.replace(default=None)
            found.setdefault(name, one)
        if is_all:
            return found, True
        is_ours = owner.__module__.startswith(PASSING_ON)
        if not vars(owner).get('passes_on', is_ours):
            break
    return found, False


def _named(function: Callable) -> tuple[dict[str, Parameter], bool]:
    """Return the parameters of a function that have a name, and whether it has all."""
    hints: dict[str, Any] = {}
    with suppress(NameError, TypeError, AttributeError):  # a hint for checkers alone
        hints = get_type_hints(function)
    parameters = dict(signature(function).parameters)
    parameters.pop('self', None)
    rest = any(one.kind is Parameter.VAR_KEYWORD for one in parameters.values())
    return {
        name: one.replace(annotation=hints.get(name, Any))
        for name, one in parameters.items()
        if one.kind in NAMED
    }, not rest


def arguments_of(kind: type) -> set[str] | None:
    """Return the names of the arguments of a class; None if it may take any."""
    found, is_all = parameters_of(kind)
    return set(found) if is_all else None


def check_arguments(
    call: Callable, given: Mapping, key: str, supplied: Iterable[str] = ()
) -> None:
    """Refuse arguments that a class or function does not take, or not of that type.

    Args:
        call (Callable): The class or function.
        given (Mapping): Arguments in its config, by name.
        key (str): The config's key, ``default_hooks.warmup``, say.
        supplied (Iterable[str]): Arguments that others give. Defaults to none.

    Raises:
        TypeError: naming key, argument and what may be written.
    """
    known, is_all = parameters_of(call)
    names = [*known, 'type']
    unknown = [name for name in given if name not in {*names, *OF_REGISTRIES}]
    if is_all and unknown:
        # A misspelt `type` gives every other argument to a class that has none such.
        alike = [name for name in unknown if get_close_matches(str(name), names)]
        name = [*alike, *unknown][0]
        raise TypeError(
            describe(
                f'{key}.{name}',
                given[name],
                f'{call.__name__} has no such argument.',
                f'Like it: {nearest(str(name), names)}. If it is of another class, '
                f'correct {key}.type; if a base has set it, write _delete_=True beside '
                'yours.',
            )
        )
    if not call.__module__.startswith(HINTED):
        return
    fault = fault_of(call, given, key)
    if fault is not None:
        raise fault.error()
    wanted = getattr(call, 'wanted_widths', None)
    # Those that the nets tell may be left out.
    found = {*supplied, *(wanted(given) if wanted else ())}
    for name, one in known.items():
        if one.default is Parameter.empty and name not in {*given, *found}:
            problem = f'{call.__name__} needs it, and it is missing.'
            remedy = f'Write {name}={spell(one.annotation)[1]}, say.'
            raise TypeError(describe(f'{key}.{name}', None, problem, remedy))


def fault_of(call: Callable, given: Mapping, key: str) -> Fault | None:
    """Return the first argument that is not of the type that its hint says."""
    if not call.__module__.startswith(HINTED):
        return None
    is_true = call.__module__.startswith(TRULY_HINTED)
    for name, one in parameters_of(call)[0].items():
        if name not in given:
            continue
        value = given[name]
        if not (is_true or isinstance(value, NEVER_LEFT_OUT)):
            continue
        if type(value) is type(one.default) and value == one.default:
            continue  # None, say, where the hint is silent about it
        fault = find_fault(value, one.annotation, f'{key}.{name}')
        if fault is not None:
            return fault
    return None


def check_part(
    cfg,
    registry: Registry,
    key: str,
    suffix: str = '',
    only: str | tuple = '',
    beside: Sequence[str] = (),
    supplied: Sequence[str] = (),
) -> None:
    """Refuse wrong arguments of what a config builds, and of our parts within it.

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
        supplied (Sequence[str]): Arguments that the builder gives. Defaults to none.

    Raises:
        TypeError: see :func:`check_arguments`.
        KeyError: the registry has no such ``type``.
    """
    if isinstance(cfg, (list, tuple)):
        for index, part in enumerate(cfg):
            place = f'{key}.{index}'
            check_part(part, registry, place, suffix, only, beside, supplied)
        return
    if not isinstance(cfg, Mapping) or 'type' not in cfg:
        return
    kind = class_of(cfg, registry, key, suffix)
    _check_known(cfg, kind, registry, key, only, beside, supplied)


def require_part(
    cfg, key: str, default: str = '', built: bool = False, many: bool = False
) -> None:
    """Refuse what cannot be the config of a part.

    Args:
        cfg: What should be a dict with a ``type``.
        key (str): Its config key.
        default (str): The type of a dict without one. Defaults to none.
        built (bool): Whether it may be an object that is built. Defaults to False.
        many (bool): Whether it may be a list of dicts. Defaults to False.

    Raises:
        TypeError: naming the key and what to write.
    """
    example = f'dict(type={default or "..."!r})'
    if many and isinstance(cfg, (list, tuple)):
        for index, part in enumerate(cfg):
            require_part(part, f'{key}.{index}', default)
    elif not isinstance(cfg, Mapping):
        plain = cfg is None or isinstance(cfg, (str, Number, list, tuple))
        if plain or not built:
            problem = 'It has to be a dict that says what to build.'
            name = key.rpartition('.')[2]
            remedy = f'Write {example}' if name.isdigit() else f'Write {name}={example}'
            raise TypeError(describe(key, cfg, problem, f'{remedy}.'))
    elif 'type' not in cfg and not default:
        problem = 'It is missing, so nobody knows what to build.'
        remedy = f"Write type='...' beside {sorted(map(str, cfg))}."
        raise TypeError(describe(f'{key}.type', None, problem, remedy))


def class_of(cfg: Mapping, registry: Registry, key: str, suffix: str = '') -> Any:
    """Return what the ``type`` of a config names: a class, or any callable.

    Args:
        cfg (Mapping): The config, which has a ``type``.
        registry (Registry): Where its type is found.
        key (str): Its config key.
        suffix (str): What is appended to the type. Defaults to none.

    Raises:
        TypeError: the type is neither a name nor a class.
        KeyError: the registry has no such type.
    """
    kind, scope = resolved(cfg['type']), cfg.get('_scope_')
    if isinstance(kind, str) and kind:
        found = _class_named(kind, registry, suffix, scope)
        if not callable(found):  # mmengine finds modules as well
            _refuse_type(kind, registry, suffix, scope, key)
        return found
    if not callable(kind):
        problem, remedy = 'It is not the name of a class.', "Write type='...'."
        raise TypeError(describe(f'{key}.type', kind, problem, remedy))
    return kind


def _check_known(
    cfg: Mapping,
    kind,
    registry: Registry,
    key: str,
    only,
    beside: Sequence[str] = (),
    supplied: Sequence[str] = (),
) -> None:
    if not isinstance(kind, type) or not kind.__module__.startswith(only):
        return
    given = {name: value for name, value in cfg.items() if name not in beside}
    check_arguments(kind, given, key, supplied)
    for place, part in parts_within(cfg, key):
        inner = resolved(part.get('type'))
        if isinstance(inner, str):
            inner = _class_named(inner, registry, '', part.get('_scope_'))
        _check_known(part, inner, registry, place, 'cakd_mm.')


def parts_within(cfg: Mapping, key: str) -> Iterator[tuple[str, Mapping]]:
    """Yield config key and config of the parts of a part, also of those in a list."""
    for name, value in cfg.items():
        if isinstance(value, Mapping):
            yield f'{key}.{name}', value
        elif isinstance(value, (list, tuple)):
            for index, one in enumerate(value):
                if isinstance(one, Mapping):
                    yield f'{key}.{name}.{index}', one


def _class_named(name: str, registry: Registry, suffix: str, scope: str | None):
    """Return the class that a registry has for a type; None if it has none."""
    with (
        suppress(RuntimeError),  # mmengine's of a name that it cannot make out
        registry.switch_scope_and_registry(scope) as own,
    ):
        # The path of a class, which a dumped config has for it, is whole.
        is_path = '.' in name and name.endswith(suffix)
        return own.get(name if is_path else name + suffix)
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
    # The scope of a base's part, which a leaf replaces, may be another project's.
    siblings = own.root.children.values()
    there = [x.scope for x in siblings if name + suffix in x.module_dict]
    like = ' or '.join(f"'{x}.{name}'" for x in there) or nearest(name, known)
    remedy = f'Like it: {like}. A class of your own has to be imported '
    raise KeyError(describe(f'{key}.type', name, problem, f'{remedy}(custom_imports).'))
