"""A config's text is read as data."""

import pytest

from cakd_mm.utils.config_text import values_in, written

TEXT = """
import os
a = dict(x=[1, -2.5], y=(True, None), **{'no-name': 'z'})
b = dict({'0': dict(type='K')}, c=make())
d = {'k': {3: [a]}}
e = a
f = {[]: 1}
os.abort()
"""


def test_literals_dicts_and_nothing_else():
    found = values_in(TEXT)
    assert found == dict(
        a={'x': [1, -2.5], 'y': [True, None], None: {'no-name': 'z'}},
        b={'0': dict(type='K'), 'c': None},
        d={'k': {3: [None]}},
        e=None,
        f=None,
    )


@pytest.mark.parametrize(
    'text',
    [None, 7, b'x = 1', 'x = (', 'x = ' + '(' * 5000, 'x = ' + '-' * 10**5 + '1'],
)
def test_what_is_no_config_has_no_values(text):
    assert values_in(text).get('x') in (None, 1)
    assert written(text, 'y') is None


def test_the_text_of_an_assignment():
    assert written('y = 1\nx = dict(  a=1)', 'x') == 'dict(a=1)'
