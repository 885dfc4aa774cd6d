"""The wording of all user errors: key, value, problem and remedy."""

from collections.abc import Iterable
from difflib import get_close_matches
from textwrap import shorten

# How many names are given.
SHOWN = 5


class Description(str):
    """The text of an error that the user has made and can mend.

    A tool that ends with such an error shows the text alone, because its user needs no
    place in our code.
    """


def describe(key: str, value, problem: str, remedy: str) -> str:
    """Return the text of a user error, a :class:`Description`.

    Args:
        key: Config key, spelled as in the config (``model.teacher_ckpt``).
        value: Its value.
        problem: Why the value does not work, a full sentence.
        remedy: What to write or run instead, a full sentence.
    """
    return Description(f'`{key}` = {value!r}: {problem} {remedy}')


def start_of(error: BaseException | str, width: int) -> str:
    """Return an error's text on one line without its full stop, cut between words."""
    return shorten(str(error).rstrip('.\n'), width, placeholder=' ...')


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known names most like ``name``, or the first ones if none is."""
    known = sorted(known)
    close = get_close_matches(name, known, n=3, cutoff=0.4) or known[:8]
    return ', '.join(repr(match) for match in close) if close else 'none at all'


def first_of(names: list[str]) -> str:
    """Return the first few names, and how many there are besides."""
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return ', '.join(names[:SHOWN]) + more
