"""Logs of one start and of several."""

import pytest
from tiny_runs import METRIC, steps, write_log

from cakd_mm.visualization.history import History, configs_of, read_history
from cakd_mm.visualization.sweep import name_of


def test_a_resumed_run_is_joined(tmp_path):
    tops = [{METRIC: 10.0 * epoch, 'step': epoch} for epoch in (1, 2, 3)]
    write_log(tmp_path, steps([1, 2, 3, 4, 5, 6]) + tops)
    again = [*steps([50, 60, 70, 80], first=5), {METRIC: 77.0, 'step': 3}]
    write_log(tmp_path, again, '20260102_000000', end='{"loss": 1, "st')
    write_log(tmp_path, [], '20260103_000000')
    history, _ = read_history(tmp_path)
    x, y = history.curve('loss')
    assert (x, y) == ([s / 2 for s in range(1, 9)], [1, 2, 3, 4, 50, 60, 70, 80])
    assert history.validation() == ([1, 2, 3], [10.0, 20.0, 77.0])
    assert history.unit == 'epoch'


def test_a_run_started_anew_replaces_a_longer_one(tmp_path):
    write_log(tmp_path, [*steps(range(9)), {METRIC: 1.0, 'step': 4}])
    write_log(tmp_path, steps([7, 7]), '20260102_000000')
    history, _ = read_history(tmp_path)
    assert history.curve('loss')[1] == [7, 7]
    assert history.validation() == ([], [])


@pytest.mark.parametrize(('per_epoch', 'every'), [(391, 100), (16, 16), (7, 3)])
def test_steps_per_epoch(per_epoch, every):
    lines = [
        dict(loss=1.0, epoch=epoch + 1, step=epoch * per_epoch + step)
        for epoch in range(3)
        for step in range(every, per_epoch + 1, every)
    ]
    history = History(lines, [])
    assert history.steps_per_epoch == per_epoch
    assert history.curve('loss')[0][-1] == lines[-1]['step'] / per_epoch


def test_a_single_epoch_is_counted_in_steps():
    val = [{METRIC: 5.0, 'step': 1}]
    history = History(steps([1, 2, 3], per_epoch=4), val)
    assert history.unit == 'step'
    assert history.curve('loss')[0] == [1, 2, 3]
    assert history.validation() == ([3], [5.0])


def test_a_config_by_the_run_is_found(tmp_path):
    write_log(tmp_path, steps([1.0]))
    [saved] = tmp_path.glob('*/vis_data/config.py')
    saved.rename(tmp_path / 'demo.py')
    (tmp_path / 'student.py').write_text('model = None')
    assert read_history(tmp_path)[1].model.type == 'FrozenTeacherDistill'
    (tmp_path / 'demo.py').unlink()
    with pytest.raises(FileNotFoundError, match='Copy the config'):
        read_history(tmp_path)


def test_extracted_students_are_no_configs_of_a_run(tmp_path):
    names = (
        'student',
        'student_best',
        'student_ema',
        'epoch_29_student',
        'epoch_29_student_ema',
        'student_run',
    )
    for name in names:
        (tmp_path / f'{name}.py').touch()
    assert [path.stem for path in configs_of(tmp_path)] == ['student_run']
    assert [name_of(x) for x in ('student_run', 'my_run', 'kd')] == [
        *('student', 'my_run', 'kd')
    ]


def test_iterations_without_epochs():
    lines = [dict(loss=1.0, iter=step, step=step) for step in (10, 20)]
    history = History(lines, [{METRIC: 5.0, 'step': 20}])
    assert history.unit == 'step'
    assert history.validation() == ([20], [5.0])
