"""The warm-up's study: what it trains, and whom it calls dead."""

import runpy

import pytest
from tiny import CONFIGS
from tiny_runs import METRIC, resolved, write_log

TOOL = CONFIGS.parent / 'tools' / 'analysis_tools' / 'warmup_study.py'


@pytest.fixture(scope='module')
def study():
    return runpy.run_path(str(TOOL))


@pytest.fixture
def rows(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return study['settings'](2, tmp_path / 'runs')[1]


def test_arms_differ_in_their_warm_up_alone(rows):
    assert [len(runs) for runs in rows.values()] == [2, 2, 2, 2]
    folders = {run.work_dir for runs in rows.values() for run in runs}
    assert len(folders) == 8
    for none, some in (list(rows)[:2], list(rows)[2:]):
        a, b = (resolved(rows[arm][1]).to_dict() for arm in (none, some))
        assert a['default_hooks'].pop('warmup')['epochs'] == 1
        assert b['default_hooks'].pop('warmup')['epochs'] == 3
        assert a == b
        assert a['randomness']['seed'] == 1


def finish(run, losses):
    run.work_dir.mkdir(parents=True)
    lines = [
        {'student.loss': loss, 'epoch': epoch, 'step': 16 * epoch}
        for epoch, loss in enumerate(losses, run.epochs - len(losses) + 1)
    ]
    write_log(run.work_dir, [*lines, {METRIC: 50.0, 'step': run.epochs}])
    run.last_checkpoint.write_bytes(b'weights')
    run.write_result()


def test_a_student_is_dead_that_ends_at_the_loss_of_a_guess(study, rows):
    first = next(iter(rows))
    finish(rows[first][0], [0.2, 2.28])
    finish(rows[first][1], [2.5, 0.3])
    found = study['summarise'](rows)
    assert found['rows'][first] == dict(runs=2, dead=1, last_losses=[2.28, 0.3])
    assert [row['runs'] for row in found['rows'].values()] == [2, 0, 0, 0]
    assert found['finished'] == 2


def test_a_student_is_dead_that_nan_has_stopped(study, rows):
    first = next(iter(rows))
    rows[first][0].note_failure('exit status 1: ...NonFiniteError: Non-finite loss at')
    rows[first][1].note_failure('killed by signal 9: ... (x.log)')  # has no say
    found = study['summarise'](rows)['rows']
    assert found[first] == dict(runs=1, dead=1, last_losses=[])


def test_deaths_are_compared_over_both_rows(study, rows):
    table = {name: dict(runs=8, dead=0) for name in rows}
    assert study['fisher'](table) == 1
    for name in list(rows)[::2]:
        table[name]['dead'] = 4  # none against eight of sixteen
    assert study['fisher'](table) == pytest.approx(2 * 12870 / 10518300)
