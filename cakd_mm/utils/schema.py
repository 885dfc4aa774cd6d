"""Checks values of a config against type hints, which are its schema."""

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Number, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from .errors import describe

LISTS = (list, tuple, Sequence, Iterable, Collection)
MAPPINGS = (dict, Mapping)
# How a hint is spelled for a user, and what may be written.
SPELLINGS: dict[Any, tuple[str, str]] = {
    NoneType: ('None', 'None'),
    bool: ('True or False', 'True'),
    int: ('an integer', '1'),
    **dict.fromkeys((float, Real, Number), ('a number', '1.0')),
    str: ('a text that is not empty', "'...'"),
    **dict.fromkeys(LISTS, ('a list', '[...]')),
    **dict.fromkeys(MAPPINGS, ('a dict', 'dict(...)')),
}


@dataclass
class Fault:
    """What is wrong with a value, by its config key."""

    key: str
    value: Any
    problem: str
    remedy: str
    kind: type[Exception] = TypeError

    def error(self) -> Exception:
        """Return the error that tells it."""
        return self.kind(describe(self.key, self.value, self.problem, self.remedy))


def find_fault(value: Any, hint: Any, key: str) -> Fault | None:
    """Return what is wrong with a value, or with something in it; None if it fits.

    Integers are numbers, booleans are not, and neither is nan. A list may stand for a
    tuple, and a dict for an instance of a class, which is built from it. What a hint
    says beyond that is not looked at.

    Args:
        value: The value.
        hint: A type hint that has been evaluated.
        key (str): The value's config key.
    """
    origin, inner = get_origin(hint), get_args(hint)
    kind = origin or hint
    if kind is Annotated:
        return find_fault(value, inner[0], key)
    if kind in (Union, UnionType):
        faults = [find_fault(value, option, key) for option in inner]
        if None in faults:
            return None
        # That of the option that the value resembles most.
        deepest = max((x for x in faults if x is not None), key=lambda x: len(x.key))
        return deepest if deepest.key != key else _misfit(value, hint, key)
    if not _resembles(value, kind, inner):
        return _misfit(value, hint, key)
    parts: Iterable[tuple[Any, Any]] = ()
    if kind in MAPPINGS:
        named = all(isinstance(name, str) for name in value)
        if inner and inner[0] is str and not named:
            return Fault(key, value, 'Its keys are no names.', 'Write names.')
        parts, inner = value.items(), inner[1:]
    elif kind in LISTS and (len(inner) == 1 or inner[1:] == (...,)):
        parts = enumerate(value)
    elif kind is tuple and inner:
        if len(value) != len(inner):
            return _misfit(value, hint, key)
        for index, (part, part_hint) in enumerate(zip(value, inner, strict=True)):
            fault = find_fault(part, part_hint, f'{key}.{index}')
            if fault is not None:
                return fault
    if inner:
        for name, part in parts:
            fault = find_fault(part, inner[0], f'{key}.{name}')
            if fault is not None:
                return fault
    return None


def _resembles(value: Any, kind: Any, options: tuple) -> bool:
    """Tell whether a value is of a kind, whatever is in it."""
    if kind is Any:
        return True
    if kind is Literal:
        return any(type(value) is type(x) and value == x for x in options)
    if kind in (int, Integral):
        return isinstance(value, Integral) and not isinstance(value, bool)
    if kind in (float, Real, Number):
        number = isinstance(value, Real) and not isinstance(value, bool)
        return number and value == value  # which nan is not
    if kind is str:
        return isinstance(value, str) and value != ''
    if kind in LISTS:
        return isinstance(value, (list, tuple))
    if kind in MAPPINGS:
        return isinstance(value, Mapping)
    if inspect.isclass(kind):
        builtin = kind in SPELLINGS or kind is object
        return isinstance(value, kind) or (
            not builtin and isinstance(value, (Mapping, type))
        )
    return True


def _misfit(value: Any, hint: Any, key: str) -> Fault:
    what, example = spell(hint)
    name = key.rpartition('.')[2]
    remedy = f'Write {example} there, say.' if name.isdigit() else ''
    remedy = remedy or f'Write {name}={example}, say.'
    # Of the right type, so that the value is wrong.
    empty = isinstance(value, (str, float)) and (value == '' or value != value)
    by_value = empty or get_origin(hint) is Literal
    kind = ValueError if by_value else TypeError
    return Fault(key, value, f'It has to be {what}.', remedy, kind)


def spell(hint: Any) -> tuple[str, str]:
    """Return a hint in words, and an example of what fits it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ' or '.join(map(repr, inner)), repr(inner[0])
    if origin in (Union, UnionType):
        words = list(dict.fromkeys(spell(option)[0] for option in inner))
        return ' or '.join(words), spell(inner[0])[1]
    kind = origin or hint
    if kind is tuple and inner and ... not in inner:
        each = [spell(option) for option in inner]
        listed, example = (', '.join(words) for words in zip(*each, strict=True))
        return f'a list of {len(inner)}: {listed}', f'[{example}]'
    default = getattr(kind, '__name__', str(kind))
    what, example = SPELLINGS.get(kind, (f'a {default}', f'dict(type={default!r})'))
    if kind in LISTS and inner:
        what, example = f'a list, each {spell(inner[0])[0]}', f'[{spell(inner[0])[1]}]'
    return what, example
