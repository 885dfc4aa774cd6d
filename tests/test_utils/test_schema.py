"""Values against type hints."""

from collections.abc import Mapping, Sequence
from numbers import Number
from types import NoneType
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from mmengine.config import ConfigDict
from torch import nn

from cakd_mm.utils.schema import find_fault, spell

NAN = float('nan')


@pytest.mark.parametrize(
    ('hint', 'right', 'wrong'),
    [
        (int, [0, -1, np.int64(3)], [True, 1.0, '1', None, [1], NAN]),
        (float, [0, -1.5, np.float32(3)], [True, NAN, '1', None, {}]),
        (Number, [0, 1.5], [NAN, '1']),
        (bool, [True, False], [0, 1, 'True', None]),
        (str, ['a'], ['', 7, None, ['a'], NAN]),
        (NoneType, [None], [0, '', []]),
        (int | None, [None, 1], ['1', []]),
        (Literal['a', 2], ['a', 2], ['b', '', None, 2.0]),
        (dict, [{}, dict(a=1), ConfigDict(a=1)], [None, [], 'a', 7]),
        (dict[str, int], [{}, dict(a=1)], [dict(a='x'), {1: 1}, []]),
        (Mapping, [{}], [[]]),
        (list, [[], (), [1, 'a']], [None, {}, 'ab', 7]),
        (list[int], [[], [1]], [['a'], [1, None]]),
        (Sequence[int | None], [[1, None], (1,)], ['12', [1.5]]),
        (tuple[int, str], [(1, 'a'), [1, 'a']], [(1,), (1, 2), (1, 'a', 'b')]),
        (tuple[int, ...], [(), (1, 2, 3)], [(1, 'a')]),
        (dict | nn.Module | None, [{}, nn.ReLU(), None], [7, 'a', [], True]),
        (Annotated[int, 'a count'], [1], ['1']),
        (Any, [None, 7, NAN], []),
        ('not evaluated', [None, 7], []),
    ],
    ids=str,
)
def test_what_fits(hint, right, wrong):
    assert [find_fault(value, hint, 'a.b') for value in right] == [None] * len(right)
    assert [x for x in wrong if find_fault(x, hint, 'a.b') is None] == []


@pytest.mark.parametrize(
    ('hint', 'value', 'key'),
    [
        (int, 'x', 'a.b'),
        (list[int], [1, 'x'], 'a.b.1'),
        (tuple[int, str], [1, 2], 'a.b.1'),
        (dict[str, dict[str, int]], dict(c=dict(d='x')), 'a.b.c.d'),
        (dict[str, dict | list[dict]], dict(c=[{}, 7]), 'a.b.c.1'),
        (int | list[int] | None, [1, 'x'], 'a.b.1'),
        (int | list[int] | None, 'x', 'a.b'),
    ],
    ids=str,
)
def test_the_key_of_what_is_wrong(hint, value, key):
    assert find_fault(value, hint, 'a.b').key == key


@pytest.mark.parametrize(
    ('hint', 'value', 'text'),
    [
        (int, 'x', "`a.b` = 'x': It has to be an integer. Write b=1, say."),
        (list[str], [7], '`a.b.0` = 7: It has to be a text that is not empty. Write '),
        (bool | None, 7, '`a.b` = 7: It has to be True or False or None. Write b=True'),
        (tuple[float, float], 7, '`a.b` = 7: It has to be a list of 2: a number, a nu'),
    ],
    ids=str,
)
def test_the_text(hint, value, text):
    error = find_fault(value, hint, 'a.b').error()
    assert isinstance(error, TypeError) and str(error).startswith(text)


@pytest.mark.parametrize(
    ('hint', 'value'), [(Literal['a', 'b'], 'c'), (float, NAN), (str, '')], ids=str
)
def test_a_wrong_value_of_the_right_type(hint, value):
    assert isinstance(find_fault(value, hint, 'a.b').error(), ValueError)


def test_a_hint_in_words():
    assert spell(Literal['a', 2]) == ("'a' or 2", "'a'")
    assert spell(nn.Module) == ('a Module', "dict(type='Module')")
    assert spell(list[dict | None])[0] == 'a list, each a dict or None'
