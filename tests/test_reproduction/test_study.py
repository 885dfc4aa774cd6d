"""What studies share: which numbers are written down, and how they are called."""

import json

import pytest

from cakd_mm.reproduction.study import check_more, study_parser, write_study


def test_more_runs_are_not_replaced_by_fewer(tmp_path):
    path = tmp_path / 'results' / 'study.json'
    check_more(path, 0, tmp_path)
    write_study(path, dict(finished=3, rows={}), tmp_path)
    with pytest.raises(ValueError, match=r'has 3 finished runs, .* 2: .* --work-dir'):
        write_study(path, dict(finished=2, rows={}), tmp_path)
    assert json.loads(path.read_text())['finished'] == 3
    write_study(path, dict(finished=3, rows=dict(a=1)), tmp_path)
    assert json.loads(path.read_text())['rows'] == dict(a=1)


@pytest.mark.parametrize('jobs', ['0', '-1', 'many'])
def test_jobs_are_a_number(jobs, capsys):
    with pytest.raises(SystemExit):
        study_parser('A study.', 'work_dirs/x').parse_args(['--jobs', jobs])
    assert f'error: argument --jobs: {jobs!r} is no number' in capsys.readouterr().err
