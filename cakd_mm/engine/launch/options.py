"""``--cfg-options KEY=VALUE``: how a value is read, and how a text is spelled."""

import argparse
import ast
import os
import re
import shlex
from collections.abc import Sequence
from itertools import pairwise
from types import NoneType
from typing import Any

from mmengine.config import DictAction

from ...utils.errors import describe

# Keys whose value is one path. A folder named 2024 would be read as a number, and a
# path with a comma as a list.
PATHS = ('teacher_ckpt', 'ckpt', 'student_ckpt', 'load_from', 'data_root', 'work_dir')
_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
# A dict, or a list of them, which would be read as text.
_DICT = re.compile(r"""[\[(]?\s*(dict\(|\{\s*['"])""")
# A whole element in quotes begins after a bracket or a comma, and ends before one.
_ELEMENT = re.compile(rf'((?:^|[,\[(]) *)({_QUOTED})(?= *(?:[,\])]|$))', re.DOTALL)


class OptionAction(DictAction):
    """Reads ``--cfg-options`` as mmengine does, and loses no space, comma or quote."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Add the pairs to those that were given before.

        Raises:
            argparse.ArgumentError: a word is no pair, or its value cannot be read.
        """
        options = dict(getattr(namespace, self.dest) or {})
        for word in values or ():
            key, equals, text = word.partition('=')
            try:
                if not equals:
                    problem = 'It has no `=`. The shell splits a value at its spaces.'
                    remedy = 'Write KEY=VALUE, in quotes if there is a space in it.'
                    raise ValueError(describe('--cfg-options', word, problem, remedy))
                options[key] = parse(text, key)
                _check_path(key, text, options[key])
            except ValueError as error:
                raise argparse.ArgumentError(self, str(error)) from error
        setattr(namespace, self.dest, options)


def _check_path(key: str, text: str, value: Any) -> None:
    """Refuse what has to be a path and was read as something else."""
    is_path = key.rpartition('.')[2] in PATHS
    split_at_comma = isinstance(value, list) and os.path.exists(text)
    if split_at_comma or (is_path and not isinstance(value, (str, NoneType))):
        problem = f'A path is wanted, and it is read as the {type(value).__name__} '
        raise _refusal(key, text, f'{problem}{value!r}.')


def parse(text: str, key: str = 'value') -> Any:
    """Return the value of an option: a number, a bool, None, text, a list or a tuple.

    A value in quotes is text, read as Python reads it, and so is an element of a list.
    Everything else is read as mmengine does, except that spaces inside a text stay.

    Args:
        text (str): What stands behind the ``=``.
        key (str): What stands before it, for errors. Defaults to ``'value'``.

    Raises:
        ValueError: brackets or quotes do not match, or it is a dict.
    """
    text = text.strip(' ')
    if _DICT.match(text):
        problem = 'An option is no dict, and would be read as this text.'
        remedy = f'Write each entry by itself, {key}.type=..., or write it in a config.'
        raise ValueError(describe(key, text, problem, remedy))
    if re.fullmatch(_QUOTED, text, re.DOTALL):
        try:
            return ast.literal_eval(text)
        except (SyntaxError, ValueError) as error:
            problem = f'Python cannot read it ({error}).'
            raise _refusal(key, text, problem) from error
    bracketed = text[:1] + text[-1:] in ('[]', '()')
    # What is in quotes has no comma and no bracket that would count.
    plain = _ELEMENT.sub(lambda found: found[1] + '_' * len(found[2]), text)
    if plain.startswith(("'", '"')):
        raise _refusal(key, text, 'The quote that begins it does not end it.')
    if not bracketed and ',' not in plain:
        return DictAction._parse_int_float_bool(text)
    if any(plain.count(a) != plain.count(b) for a, b in ('[]', '()')):
        raise _refusal(key, text, 'Its brackets are imbalanced.')
    parts = _split(text, plain)
    enclosed = len(parts) == 1
    if enclosed and not bracketed:
        raise _refusal(key, text, 'It has a comma in brackets that do not enclose it.')
    if enclosed:
        parts = _split(text[1:-1], plain[1:-1])
    if not parts[-1].strip(' '):  # behind a last comma
        parts.pop()
    values = [parse(part, key) for part in parts]
    return tuple(values) if enclosed and text.startswith('(') else values


def _split(text: str, plain: str) -> list[str]:
    """Split a text at the commas of ``plain`` that stand in no brackets."""
    ends = [-1]
    for place, character in enumerate(plain):
        before = plain[:place]
        if character == ',' and all(
            before.count(a) == before.count(b) for a, b in ('[]', '()')
        ):
            ends.append(place)
    ends.append(len(text))
    return [text[i + 1 : j] for i, j in pairwise(ends)]


def spell(text: str) -> str:
    """Return how an option has to spell a text so that :func:`parse` returns it."""
    plain = not {*text} & {*' ,[]()\'"'} and parse(text) == text
    return text if plain else repr(text)


def _refusal(key: str, text: str, problem: str) -> ValueError:
    word = f'{key}={text!r}'
    typed = shlex.quote(word) if {*word} & {*'"$`!\\'} else f'"{word}"'
    remedy = f'If it is one text, such as a path, write {typed}.'
    return ValueError(describe(key, text, problem, remedy))
