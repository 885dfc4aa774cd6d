"""The page of a table for the browser, from the json of a kept table."""

import json
from pathlib import Path

import pytest
from report_runs import read_page

from research.html_page import html_page
from research.tables import STUDENT

RESULTS = Path(__file__).resolve().parents[1] / 'results'


@pytest.fixture(scope='module')
def summary():
    name = 'table_cifar10-mini.json'
    return json.loads((RESULTS / name).read_text(encoding='utf-8'))


@pytest.fixture(scope='module')
def page(summary):
    return read_page(html_page('A <title>', summary, 'the command'))


def test_rows_and_sentences_are_those_of_the_other_page(page, summary):
    [pair] = summary['pairs']
    head, *rows = page.rows('Table')
    assert head[:4] == ['row', 'seeds', 'top-1', 'over the student']
    shown = (RESULTS / 'table_cifar10-mini.md').read_text(encoding='utf-8')
    for row in rows:
        assert f'| {" | ".join(row)} |' in shown
    assert len(rows) == len(pair['rows'])
    text = page.section('Table')
    assert all(sentence in text for sentence in pair['sentences'])
    assert '<title>A &lt;title&gt;</title>' in page.text
    assert 'the command' in page.section('Made with')


def test_gains_with_intervals_and_curves_with_bands(page, summary):
    [pair] = summary['pairs']
    gains = {
        trace['legendgroup']: (trace['x'][0], trace['error_x']['array'][0])
        for trace in page.figures['plot-0']['data']
    }
    assert gains == {
        name: (row['over'][STUDENT]['mean'], row['over'][STUDENT]['half'])
        for name, row in pair['rows'].items()
        if STUDENT in row['over']
    }
    lines = {
        trace['legendgroup']: trace
        for trace in page.figures['plot-1']['data']
        if 'text' in trace
    }
    for name, row in pair['rows'].items():
        assert lines[name]['y'][-1] == pytest.approx(row['mean'])


def test_each_seed(page, summary):
    [pair] = summary['pairs']
    head, *rows = page.rows('Seeds')
    assert head == ['row', '0', '1', '2']
    scores = pair['rows']['KD']['scores']
    assert ['KD', *(f'{scores[seed]:.2f}' for seed in head[1:])] in rows
