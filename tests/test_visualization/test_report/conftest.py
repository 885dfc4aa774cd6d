"""A folder of made-up runs, and the report on it."""

from pathlib import Path

import pytest
from report_runs import CAKD, FOLDER, PLAIN, VALUE, Page, make_run, read_page

from cakd_mm.visualization.report.report import report
from cakd_mm.visualization.sweep import find_runs


@pytest.fixture(scope='session')
def runs(tmp_path_factory) -> Path:
    """Plain and distilled students of three seeds, and one that is not finished."""
    folder = tmp_path_factory.mktemp('runs') / FOLDER
    for seed, last in {1: 90.1, 2: 90.2, 3: 90.3}.items():
        scores = [50.0, *[90.0] * 4, last]
        make_run(folder / f'plain{seed}', PLAIN, scores, seed, name='plain')
    lines = f'auto_scale_lr = dict(note={VALUE!r})'
    for seed, last in {1: 92.0, 2: 92.4, 3: 92.2}.items():
        scores = [60.0, 91.0, 93.5, 91.0, 91.0, last]
        terms = dict(cakd__bcd=[seed * x for x in (6, 5, 4, 3, 2, 1)])
        terms['cakd__scd'] = [0.0] * 6
        name = 'c<b>akd'
        make_run(folder / f'c{seed}', CAKD, scores, seed, 6, lines, name, **terms)
    make_run(folder / 'stopped', CAKD, [70.0, 99.0], 4, 6, lines, 'c<b>akd')
    return folder


@pytest.fixture(scope='session')
def said() -> list[str]:
    """What the report of :func:`written` told while it was made."""
    return []


@pytest.fixture(scope='session')
def written(runs, said, tmp_path_factory) -> Path:
    """The file of the report on :func:`runs`."""
    path = tmp_path_factory.mktemp('report') / 'a report.html'
    path.write_bytes(report(find_runs([runs]), 1000, said.append))
    return path


@pytest.fixture(scope='session')
def page(written) -> Page:
    """The report on :func:`runs`, taken to pieces."""
    return read_page(written.read_bytes())
