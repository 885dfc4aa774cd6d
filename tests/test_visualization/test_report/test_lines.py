"""Curves over seeds, as the page draws them."""

import math

import pytest

from cakd_mm.visualization.report.lines import (
    MOST_POINTS,
    as_text,
    lines_of,
    seeded,
    transparent,
)


def test_where_all_seeds_have_a_point():
    found = seeded([('0', [(1, 2.0), (2, 4.0), (3, 6.0)]), ('1', [(2, 8.0), (3, 0.0)])])
    assert (found.x, found.values) == ([2, 3], [[4.0, 8.0], [6.0, 0.0]])
    assert found.means == [6.0, 3.0]
    assert seeded([]).x == []


@pytest.mark.parametrize('number', [1, MOST_POINTS, MOST_POINTS + 2, 4323])
def test_a_long_curve_is_thinned_and_keeps_its_end(number):
    curve = [(x, float(x)) for x in range(number)]
    found = seeded([('0', curve)])
    assert MOST_POINTS / 2 <= len(found.x) <= MOST_POINTS or number <= MOST_POINTS
    assert found.x[-1] == number - 1
    assert [[x] for x in found.x] == found.values


def test_gaps_where_values_are_no_numbers():
    curves = [('0', [(1, 1.0), (2, math.nan)]), ('1', [(1, 3.0), (2, 5.0)])]
    band, line = lines_of(seeded(curves), 'a', '#102030', 'step', '.1f')
    assert line['y'] == [2.0, None]
    assert (band['x'], band['y']) == ([1, 1], [1.0, 3.0])
    assert band['fillcolor'] == transparent('#102030') == 'rgba(16,32,48,0.2)'


def test_text_for_plotly_has_no_tags_but_its_own():
    assert as_text('<b>a & "b"</b>') == '&lt;b&gt;a &amp; "b"&lt;/b&gt;'
    assert as_text('one two', 4) == 'one<br>two'
