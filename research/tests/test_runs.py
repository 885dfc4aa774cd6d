import fcntl
import hashlib
import json
import os
import sys
import time

import pytest
import torch
from finished import START, finish_run
from tiny import CONFIGS

from research import runs
from research.runs import Run

METRIC = 'accuracy/top1'
CONFIG = 'train_cfg = dict(max_epochs=3)\n'


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(CONFIG)
    return path


@pytest.fixture
def run(tmp_path, config):
    return Run('the run', config, tmp_path / 'study' / 'run')


@pytest.fixture
def teacher(tmp_path, config):
    """A teacher that has ended."""
    run = Run('teacher', config, tmp_path / 'teacher')
    finish_run(run, [90.0])
    return run


def student(folder, teacher=None, options=(), **settings):
    """A run whose config has a model and ``settings``."""
    path = folder / 'student.py'
    lines = 'model = dict(teacher_ckpt="from.pth", depth=8)\n'
    lines += ''.join(f'{key} = {value!r}\n' for key, value in settings.items())
    path.write_text(CONFIG + lines)
    return Run('student', path, folder / 'student', [*options], teacher)


def write_log(work_dir, entries, stamp='20260101_000000'):
    file = work_dir / stamp / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(''.join(f'{json.dumps(entry)}\n' for entry in entries))


def epoch(number, loss, top1):
    """A training line and the score of the epoch, as mmengine writes them."""
    return [
        {'loss': loss, 'epoch': number, 'iter': 5 * number, 'step': 5 * number},
        {METRIC: top1, 'data_time': 0.1, 'time': 0.2, 'step': number},
    ]


def test_curves_are_by_epoch_and_a_later_start_counts(run):
    assert run.curve('loss') == []
    later = epoch(2, 1.25, 25.0) + epoch(3, 0.75, 30.0) + epoch(3, 0.5, 30.0)
    write_log(run.work_dir, later, stamp='20260102_000000')
    first = epoch(1, 2.5, 10.0) + epoch(2, 1.5, 20.0)
    write_log(run.work_dir, first, stamp='20260101_235959')
    write_log(run.work_dir / 'deeper', epoch(4, 1.0, 10.0))  # of another run
    assert run.curve(METRIC) == [(1, 10.0), (2, 25.0), (3, 30.0)]
    assert run.curve('loss') == [(1, 2.5), (2, 1.25), (3, 0.5)]
    assert run.curve('absent') == []


def test_the_epoch_is_that_of_the_last_whole_line(run):
    assert run.epoch == 0
    lines = [dict(loss=1.0, epoch=i // 9 + 1, step=i) for i in range(9000)]
    write_log(run.work_dir, lines)
    assert run.epoch == 1000
    write_log(run.work_dir, [], stamp='20260102_000000')  # started, nothing logged yet
    assert run.epoch == 1000
    [_, file] = sorted(run.work_dir.glob('*/vis_data/scalars.json'))
    file.write_text('{"loss": 1.0, "epoch": 2, "step": 9}\n{"loss": 1.0, "epo')
    assert run.epoch == 2


def test_seconds_are_those_of_all_starts(run):
    """Each from its beginning to the last line of its own log."""
    starts = [dict(START, began=began) for began in (1000.0, 2000.0, 3000.0)]
    run.work_dir.mkdir(parents=True)
    (run.work_dir / 'starts.json').write_text(json.dumps(dict(starts=starts)))
    for name, end in (('a', 1010.0), ('b', 2005.0)):  # the third wrote nothing yet
        log = run.work_dir / name / f'{name}.log'
        log.parent.mkdir()
        log.touch()
        os.utime(log, (end, end))
    assert run.seconds == 15.0


@pytest.fixture
def started(monkeypatch):
    """Commands and options given to ``subprocess.Popen``, which is not called."""
    monkeypatch.setattr(runs, 'commit', lambda: 'abc')  # asks git, by a process
    calls = []

    def popen(command, **options):
        options['stdout'].write('said\n')
        options['lock'] = os.dup(options['pass_fds'][0])  # as the process would
        calls.append((command, options))
        return object()

    monkeypatch.setattr(runs.subprocess, 'Popen', popen)
    yield calls
    for _, options in calls:
        os.close(options['lock'])


class TestStart:
    def test_anew(self, run, started):
        before = time.time()
        assert run.start(dict(OMP_NUM_THREADS='7')) is True
        [(command, options)] = started
        train = str(CONFIGS.parent / 'tools' / 'train.py')
        start = [sys.executable, '-W', 'ignore', train]
        rest = [str(run.config), '--resume', '--work-dir', str(run.work_dir)]
        assert command == [*start, *rest]
        assert options['env']['OMP_NUM_THREADS'] == '7'
        assert options['env']['PATH'] == os.environ['PATH']
        assert run.log.read_text() == 'said\n'
        fcntl.flock(options['lock'], fcntl.LOCK_UN)
        run.start()
        first, second = run.starts  # each is noted
        assert before <= first['began'] <= second['began'] <= time.time()
        assert (first['settings'], first['commit']) == (run.settings, 'abc')
        assert first['machine'] == runs.machine()
        assert first['versions']['torch'] == torch.__version__.partition('+')[0]

    def test_options_come_last_the_teacher_behind_them(
        self, tmp_path, teacher, started
    ):
        student(tmp_path, teacher, ['a=1', 'b.c=2']).start()
        checkpoint = tmp_path / 'teacher' / 'epoch_3.pth'
        options = ['--cfg-options', 'a=1', 'b.c=2', f'model.teacher_ckpt={checkpoint}']
        [(command, _)] = started
        assert command[-4:] == options

    def test_not_beside_another_process(self, run, config, started):
        assert run.start() is True
        assert Run('the run', config, run.work_dir).start() is False
        assert len(started) == len(run.starts) == 1
        with (run.work_dir / 'lock').open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_checkpoint_that_is_there_is_scored(tmp_path, config, started):
    given = tmp_path / 'given.pth'
    given.write_bytes(b'given')

    def scored():
        return Run('a', config, tmp_path / 'run', checkpoint=given)

    run = scored()
    run.start()
    [(command, _)] = started
    assert command[3].endswith('tools/test.py')
    assert command[4:6] == [str(config), str(given)]
    assert '--resume' not in command
    with pytest.raises(RuntimeError, match='no score'):
        run.write_result()
    log = run.work_dir / '1' / '1.json'
    log.parent.mkdir()
    log.write_text(json.dumps({METRIC: 71.5, 'time': 1}))
    run.write_result()
    assert run.top1 == 71.5
    assert run.last_checkpoint == given
    assert run.result['checkpoint_sha256'] == hashlib.sha256(b'given').hexdigest()
    scored().check()
    given.write_bytes(b'trained anew')
    with pytest.raises(ValueError, match='score of another file'):
        scored().check()


class TestSettings:
    def test_another_run_in_the_folder_is_refused(self, run, config, started):
        run.start()
        Run('the run', config, run.work_dir).check()
        other = Run('the run', config, run.work_dir, ['randomness.seed=1'])
        with pytest.raises(ValueError, match='work_dir.*other settings'):
            other.check()
        config.write_text(CONFIG + 'optim_wrapper = dict(lr=0.1)\n')
        with pytest.raises(ValueError, match='other settings'):
            Run('the run', config, run.work_dir).check()

    @pytest.mark.parametrize('lost', [False, True])
    def test_another_teacher_is_refused(self, tmp_path, teacher, started, lost):
        """Else a page could pair students of two; also in the middle of training."""
        run = student(tmp_path, teacher)
        run.start()
        run.check()
        path = teacher.work_dir / 'result.json'
        if lost:
            path.unlink()
        else:
            path.write_text(path.read_text().replace(teacher.sha256, 'another'))
        teacher = Run('teacher', teacher.config, teacher.work_dir)
        again = student(tmp_path, teacher)
        message = f'another teacher than {teacher.last_checkpoint} '
        message += 'which has no result now' if lost else 'is now'
        fcntl.flock(started[0][1]['lock'], fcntl.LOCK_UN)
        for refused in (again.check, again.start):
            with pytest.raises(ValueError, match=message):
                refused()
        assert len(started) == 1

    def test_a_teacher_that_changed_after_it_finished(self, tmp_path, teacher, started):
        """Its result says what it was, and not what it is."""
        run = student(tmp_path, teacher)
        run.check()
        before = teacher.last_checkpoint.read_bytes()
        teacher.last_checkpoint.write_bytes(before + b'+')
        for refused in (run.check, run.start):
            with pytest.raises(ValueError, match='no longer the file'):
                refused()
        assert not started
        teacher.last_checkpoint.write_bytes(before)
        run.start()
        assert len(started) == 1

    def test_a_teacher_may_move(self, tmp_path, config):
        here, there = (Run('t', config, tmp_path / place) for place in 'ab')
        settings = [student(tmp_path, x).settings for x in (here, there, None)]
        assert settings[0] == settings[1] != settings[2]

    @pytest.mark.parametrize(
        ('option', 'same'),
        [
            ('default_hooks.checkpoint.interval=5', True),
            ('default_hooks.logger.interval=5', True),
            ('default_hooks.finite.interval=100', True),  # as shipped
            ('default_hooks.unheard_of.interval=5', False),
            ('randomness.seed=1', False),
            ('model.depth=9', False),
            ('train_dataloader.batch_size=9', False),
            ('optim_wrapper.dtype=bfloat16', False),
        ],
    )
    def test_what_changes_no_result_is_no_setting(self, tmp_path, option, same):
        run, other = student(tmp_path), student(tmp_path, None, [option])
        assert (run.settings == other.settings) is same


class TestResult:
    def test_of_a_run_that_ended_well(self, tmp_path, teacher):
        run = student(tmp_path, teacher)
        assert run.finished is False
        finish_run(run, [10.0, 30.0, 20.0])
        assert run.finished is True
        assert run.top1 == 20.0  # the last, not the best
        result = student(tmp_path, teacher).result
        assert result['curve'] == [[1, 10.0], [2, 30.0], [3, 20.0]]
        for name, key in (('student', 'checkpoint'), ('teacher', 'teacher')):
            digest = hashlib.sha256(f'weights of {name}'.encode()).hexdigest()
            assert result[f'{key}_sha256'] == digest

    @pytest.mark.parametrize('epochs', [0, 2])
    def test_not_without_the_score_of_the_last_epoch(self, run, epochs):
        lines = [line for i in range(epochs) for line in epoch(i + 1, 1.0, 10.0)]
        write_log(run.work_dir, [*lines, epoch(3, 1.0, 10.0)[0]])
        with pytest.raises(RuntimeError, match='no score of epoch 3'):
            run.write_result()
        assert run.finished is False

    def test_a_half_written_one_does_not_count(self, run, monkeypatch):
        """A kill while it is written leaves none."""

        def killed(path, target):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, 'replace', killed)
        with pytest.raises(KeyboardInterrupt):
            finish_run(run, [10.0])
        monkeypatch.undo()
        assert run.finished is False
        assert not list(run.work_dir.glob('result.json*'))

    def test_a_failure_is_kept_until_it_is_finished(self, run):
        assert run.failure is None
        run.note_failure('it broke')
        assert Run(run.name, run.config, run.work_dir).failure == 'it broke'
        finish_run(run, [10.0])
        assert run.failure is None
        run.note_failure(None)
        run.note_failure(None)
        assert not (run.work_dir / 'failed.json').exists()
