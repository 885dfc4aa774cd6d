"""All ranks stop where one would."""

import os

import pytest
from ranks import two_ranks

from cakd_mm.utils.agreement import OtherRankError, exchange, require_same, together

HOST = os.uname().nodename


def outcome(part, *arguments) -> str:
    """Return the error of a part that ranks run together."""
    try:
        with together(), together():  # which tells of an error once
            part(*arguments)
    except Exception as error:
        return f'{type(error).__name__}: {error}'
    return ''


def fail(is_failing: bool) -> None:
    if is_failing:
        raise KeyError('no such key')


def fail_before_others_meet(is_failing: bool) -> None:
    fail(is_failing)
    exchange('a value')
    raise AssertionError  # The others must not come here.


def explain(is_failing: bool) -> None:
    try:
        with together():
            fail(is_failing)
    except Exception as error:  # on the others, too, which have an error of another's
        raise ValueError('in other words') from error


def compare(found: str) -> None:
    require_same(found, 'load_from', 'x.pth', 'It differs:', 'Copy it.')


def test_every_rank_stops_and_says_why(tmp_path):
    def work(rank: int) -> list:
        return [
            outcome(fail, rank == 1),
            outcome(fail_before_others_meet, rank == 1),
            outcome(fail, True),
            outcome(explain, rank == 1),
            outcome(compare, f'epoch {rank}'),
            outcome(compare, 'epoch 1'),
            exchange(rank),  # They are in step all the same.
        ]

    first, second = two_ranks(work, tmp_path)
    own = "KeyError: 'no such key'"
    told = f'OtherRankError: Another rank has failed: rank 1 on {HOST}: {own}'
    differ = (
        "ValueError: `load_from` = 'x.pth': It differs: "
        f'rank 0 on {HOST}: epoch 0; rank 1 on {HOST}: epoch 1. Copy it.'
    )
    words = 'ValueError: in other words'
    assert first == [told, told, own, words, differ, '', [0, 1]]
    assert second == [own, own, own, words, differ, '', [0, 1]]


def test_ranks_of_a_host_that_have_found_the_same_are_named_together(monkeypatch):
    found = [('a', 'x'), ('a', 'x'), ('b', 'y'), ('b', 'x')]
    monkeypatch.setattr(
        'cakd_mm.utils.agreement.all_gather_object',
        lambda own: [(host, found, None) for host, found in found],
    )
    text = 'rank 0, 1 on a: x; rank 2 on b: y; rank 3 on b: x. Copy it.'
    with pytest.raises(ValueError, match=text):
        compare('x')


def test_a_single_process_has_its_own_errors():
    with pytest.raises(ZeroDivisionError), together():
        1 / 0  # noqa: B018
    with together():
        compare('anything')
    assert exchange(5) == [5]
    assert not issubclass(OtherRankError, ValueError)
