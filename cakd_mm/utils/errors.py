"""The wording of all user errors: key, value, problem and remedy."""

from collections.abc import Iterable
from difflib import get_close_matches
from textwrap import shorten

# How many names are given.
SHOWN = 5
# Shorter parts of a name are in too many others.
LEAST_PART = 3


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


def nearest(name: str, known: Iterable[str], prefix: str = '') -> str:
    """Return the known names most like ``name``, or the first ones if none is.

    Each is shown with ``prefix`` before it.

    Those that begin with it, or have it within, come first, the shortest of them: a
    part of a long name is not like the whole of it otherwise. Capitals and what is
    between words do not count in this.
    """
    known = sorted(known)
    part = _letters(name)
    places = {x: _letters(x).find(part) for x in known if len(part) >= LEAST_PART}
    within = [x for x, place in places.items() if place >= 0]
    within.sort(key=lambda x: (places[x] > 0, len(x)))
    like = get_close_matches(name, known, n=3, cutoff=0.4)
    close = list(dict.fromkeys([*within[:3], *like]))[:3] or known[:8]
    return (
        ', '.join(repr(prefix + match) for match in close) if close else 'none at all'
    )


def _letters(name: str) -> str:
    return ''.join(x for x in name.lower() if x.isalnum())


def first_of(names: list[str]) -> str:
    """Return the first few names, and how many there are besides."""
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return ', '.join(names[:SHOWN]) + more
