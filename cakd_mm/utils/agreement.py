"""What ranks tell one another, so that all of them stop where one would."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch.distributed as dist
from mmengine.dist import all_gather_object

from .errors import describe

T = TypeVar('T')
TOLD = 'is_told_to_all_ranks'
# What gloo says of a rank that does not answer or has ended, and the store in which
# ranks meet of all.
TIMED_OUT = re.compile(
    r'Timed out waiting \d+ms|wait timeout|(?<!DataLoader )[Tt]imed out after'
)
ENDED = re.compile(
    'Connection (closed|reset) by peer|connectFullMesh|Connection refused|Broken pipe'
)


class OtherRankError(RuntimeError):
    """Another rank has ended with an error; the message is that rank's."""


def is_of_waiting(error: BaseException) -> bool:
    """Return whether an error is that of waiting for another rank, which caused it."""
    if isinstance(error, (OtherRankError, dist.DistError)):
        return True
    says = any(text.search(str(error)) for text in (TIMED_OUT, ENDED))
    return isinstance(error, RuntimeError) and says


def exchange(value: T) -> list[T]:
    """Return the value of every rank; all of them have to call it.

    It is met by whichever call of :func:`together` a failing rank ends in.

    Raises:
        OtherRankError: another rank has failed instead.
    """
    return [value for _, value in _gather(value, None)]


@contextmanager
def together() -> Iterator[None]:
    """Run a part of a program on all ranks, and end all of them if one fails.

    A rank that fails raises its own error, the others one with its text, unless it has
    failed in waiting for them. Inside, ranks may wait for one another by
    :func:`exchange` alone.

    Raises:
        OtherRankError: another rank has failed.
    """
    try:
        yield
    except Exception as error:
        if not _is_told(error):
            vars(error)[TOLD] = True
            _gather(None, f'{type(error).__name__}: {error}')
        raise
    exchange(None)


def _is_told(error: BaseException | None) -> bool:
    """Tell whether the others know of an error, or of the one that it explains."""
    if error is None:
        return False
    known = is_of_waiting(error) or TOLD in vars(error)
    return known or _is_told(error.__cause__)


def require_same(found: str, key: str, value: Any, problem: str, remedy: str) -> None:
    """Refuse to go on if ranks have found different things; all have to call it.

    Args:
        found (str): What this rank has found.
        key (str): The config key that it is about.
        value: The key's value.
        problem (str): What it means if ranks differ, a full sentence.
        remedy (str): What to write or do instead, a full sentence.

    Raises:
        ValueError: on every rank, with what each has found.
        OtherRankError: another rank has failed instead.
    """
    reports = _gather(found, None)
    if len({found for _, found in reports}) > 1:
        problem = f'{problem} {_by_rank(reports)}.'
        raise ValueError(describe(key, value, problem, remedy))


def host() -> str:
    """Return this machine's name."""
    return socket.gethostname()


def _gather(value: Any, error: str | None) -> list[tuple[str, Any]]:
    """Return host and value of every rank.

    Raises:
        OtherRankError: others have failed, and this rank has not.
    """
    reports = all_gather_object((host(), value, error))
    failed = [(host, error) for host, _, error in reports]
    if error is None and any(text is not None for _, text in failed):
        raise OtherRankError(f'Another rank has failed: {_by_rank(failed)}')
    return [(host, value) for host, value, _ in reports]


def _by_rank(reports: list[tuple[str, str | None]]) -> str:
    """Say what ranks have found, those together that have found the same on a host."""
    ranks: dict[tuple[str, str], list[str]] = {}
    for rank, (host, found) in enumerate(reports):
        if found is not None:
            ranks.setdefault((host, found), []).append(str(rank))
    return '; '.join(
        f'rank {", ".join(numbers)} on {host}: {found}'
        for (host, found), numbers in ranks.items()
    )
