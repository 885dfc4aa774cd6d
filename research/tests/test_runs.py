import fcntl
import hashlib
import json
import os
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from tiny import CONFIGS
from tiny_runs import finish_run

from research import runs
from research.runs import Run

METRIC = 'accuracy/top1'
CONFIG = 'train_cfg = dict(max_epochs={})\n'


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(CONFIG.format(3))
    return path


@pytest.fixture
def run(tmp_path, config):
    return Run('the run', config, tmp_path / 'study' / 'run')


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


class TestCurve:
    def test_of_a_run_that_has_not_begun(self, run):
        assert run.curve('loss') == []
        assert run.curve(METRIC) == []

    def test_by_epoch(self, run):
        write_log(run.work_dir, epoch(1, 2.5, 10.0) + epoch(2, 1.5, 20.0))
        assert run.curve('loss') == [(1, 2.5), (2, 1.5)]
        assert run.curve(METRIC) == [(1, 10.0), (2, 20.0)]
        assert run.curve('absent') == []

    def test_the_last_line_of_an_epoch_counts(self, run):
        lines = [{'loss': x, 'epoch': 1, 'step': x} for x in (3, 2)]
        write_log(run.work_dir, lines)
        assert run.curve('loss') == [(1, 2)]

    def test_of_an_epoch_run_twice_the_later_counts(self, run):
        later = epoch(2, 1.25, 25.0) + epoch(3, 0.5, 30.0)
        write_log(run.work_dir, later, stamp='20260102_000000')
        first = epoch(1, 2.5, 10.0) + epoch(2, 1.5, 20.0)
        write_log(run.work_dir, first, stamp='20260101_235959')
        assert run.curve(METRIC) == [(1, 10.0), (2, 25.0), (3, 30.0)]
        assert run.curve('loss') == [(1, 2.5), (2, 1.25), (3, 0.5)]

    def test_files_elsewhere_are_not_its_own(self, run):
        write_log(run.work_dir / 'deeper', epoch(1, 1.0, 10.0))
        assert run.curve('loss') == []


class TestEpoch:
    def test_of_a_run_that_has_not_begun(self, run):
        assert run.epoch == 0

    def test_is_that_of_the_last_line(self, run):
        write_log(run.work_dir, epoch(1, 2.5, 10.0) + epoch(2, 1.5, 20.0)[:1])
        assert run.epoch == 2

    def test_is_found_at_the_end_of_a_long_log(self, run):
        lines = [dict(loss=1.0, epoch=i // 9 + 1, step=i) for i in range(9000)]
        write_log(run.work_dir, lines)
        assert run.epoch == 1000

    def test_a_start_that_has_logged_nothing_yet_is_where_the_last_one_was(self, run):
        write_log(run.work_dir, epoch(3, 1.0, 10.0))
        write_log(run.work_dir, [], stamp='20260102_000000')
        assert run.epoch == 3

    def test_a_line_being_written_is_no_line(self, run):
        write_log(run.work_dir, epoch(3, 1.0, 10.0))
        [file] = run.work_dir.glob('*/vis_data/scalars.json')
        file.write_text(file.read_text() + '{"loss": 1.0, "epo')
        assert run.epoch == 3


@pytest.mark.parametrize(
    ('name', 'epochs'),
    [
        ('cakd/ablations/digits/digits_single_network.py', 30),
        ('cakd/demo_digits.py', 10),
    ],
)
def test_the_epochs_are_the_configs(tmp_path, name, epochs):
    run = Run('a', CONFIGS / name, tmp_path / 'b')
    assert Config.fromfile(CONFIGS / name).train_cfg.max_epochs == epochs
    assert run.epochs == epochs
    assert run.last_checkpoint == tmp_path / 'b' / f'epoch_{epochs}.pth'
    assert run.log == tmp_path / 'b.log'


class Process:
    """Stands for a process that has been started."""

    def poll(self):
        return None


@pytest.fixture
def started(monkeypatch):
    """Commands and options given to ``subprocess.Popen``, which is not called."""
    monkeypatch.setattr(runs, 'commit', lambda: 'abc')  # asks git, by a process
    calls = []

    def popen(command, **options):
        options['stdout'].write('said\n')
        options['lock'] = os.dup(options['pass_fds'][0])  # as the process would
        calls.append((command, options))
        return Process()

    monkeypatch.setattr(runs.subprocess, 'Popen', popen)
    yield calls
    for _, options in calls:
        os.close(options['lock'])


def save(path, content=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content or dict(weight=torch.zeros(1000)), path)


class TestStart:
    def test_anew(self, run, started):
        assert run.start(dict(OMP_NUM_THREADS='7')) is True
        [(command, options)] = started
        tool = str(CONFIGS.parent / 'tools' / 'train.py')
        start = [sys.executable, '-W', 'ignore', tool]
        assert command == [*start, str(run.config), '--work-dir', str(run.work_dir)]
        assert options['env']['OMP_NUM_THREADS'] == '7'
        assert options['env']['PATH'] == os.environ['PATH']
        assert run.log.read_text() == 'said\n'
        assert run.process is not None

    def test_from_the_newest_checkpoint(self, run, started):
        for epoch in (2, 10, 9):
            save(run.work_dir / f'epoch_{epoch}.pth')
        run.start()
        assert started[0][0][-2:] == ['--resume', str(run.work_dir / 'epoch_10.pth')]

    def test_not_from_one_that_a_kill_cut_short(self, run, started):
        save(run.work_dir / 'epoch_1.pth')
        save(run.work_dir / 'epoch_2.pth')
        whole = (run.work_dir / 'epoch_2.pth').read_bytes()
        for length in (0, 100, len(whole) // 2, len(whole) - 1):
            (run.work_dir / 'epoch_2.pth').write_bytes(whole[:length])
            assert run.newest_checkpoint() == run.work_dir / 'epoch_1.pth', length
        (run.work_dir / 'epoch_1.pth').write_bytes(b'')
        run.start()
        assert '--resume' not in started[0][0]

    @pytest.mark.parametrize('resume', [True, False])
    def test_options_come_last_the_teacher_behind_them(
        self, tmp_path, config, started, resume
    ):
        teacher = Run('teacher', config, tmp_path / 'teacher')
        work_dir = tmp_path / 'run'
        if resume:
            save(work_dir / 'epoch_1.pth')
        Run('a', with_model(tmp_path), work_dir, ['a=1', 'b.c=2'], teacher).start()
        command = started[0][0]
        checkpoint = tmp_path / 'teacher' / 'epoch_3.pth'
        own = ['--cfg-options', 'a=1', 'b.c=2', f'model.teacher_ckpt={checkpoint}']
        assert command[-4:] == own
        assert ('--resume' in command[:-4]) is resume

    def test_a_checkpoint_that_is_there_is_scored(self, tmp_path, config, started):
        given = tmp_path / 'given.pth'
        run = Run('a', config, tmp_path / 'run', checkpoint=given)
        run.start()
        command = started[0][0]
        assert command[3].endswith('tools/test.py')
        assert command[4:6] == [str(config), str(given)]
        assert '--resume' not in command
        assert run.last_checkpoint == given

    def test_not_beside_another_process(self, run, config, started):
        assert run.start() is True
        other = Run('the run', config, run.work_dir)
        assert other.start() is False
        assert len(started) == 1
        assert len(run.starts) == 1
        with (run.work_dir / 'lock').open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_what_another_process_has_finished_is_not_started(self, run, started):
        other = Run(run.name, run.config, run.work_dir)
        assert run.finished is False
        finish_run(other, [10.0])
        assert run.start() is False
        assert started == []
        assert run.starts == []

    def test_every_start_is_noted(self, run, started):
        before = time.time()
        run.start()
        fcntl.flock(started[0][1]['lock'], fcntl.LOCK_UN)
        run.start()
        first, second = run.starts
        assert before <= first['began'] <= second['began'] <= time.time()
        assert first['settings'] == run.settings
        assert first['machine'] == runs.machine()
        assert first['commit'] == 'abc'
        assert first['versions']['torch'] == torch.__version__.partition('+')[0]


def with_model(folder, **settings):
    path = folder / 'student.py'
    lines = 'model = dict(teacher_ckpt="from.pth", depth=8)\n'
    lines += ''.join(f'{key} = {value!r}\n' for key, value in settings.items())
    path.write_text(CONFIG.format(3) + lines)
    return path


def score(run, top1):
    """Leave what a checkpoint's score leaves."""
    log = run.work_dir / '1' / '1.json'
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps({METRIC: top1, 'time': 1}))
    run.write_result()


class TestSettings:
    def test_another_run_in_the_folder_is_refused(self, run, config, started):
        run.start()
        Run('the run', config, run.work_dir).check()
        other = Run('the run', config, run.work_dir, ['randomness.seed=1'])
        with pytest.raises(ValueError, match='other settings') as caught:
            other.check()
        assert 'work_dir' in str(caught.value)

    def test_a_change_of_the_config_is_one_of_settings(self, run, started):
        run.start()
        run.config.write_text(CONFIG.format(3) + 'lr = 0.1\n')
        with pytest.raises(ValueError, match='other settings'):
            Run('the run', run.config, run.work_dir).check()

    def test_a_teacher_may_move(self, tmp_path, config):
        student = with_model(tmp_path)
        found = [
            Run('a', student, tmp_path / 'a', [], Run('t', config, tmp_path / place))
            for place in ('here', 'there')
        ]
        assert found[0].settings == found[1].settings
        assert found[0].settings != Run('a', student, tmp_path / 'a').settings

    def test_a_teacher_trained_anew_is_another(self, tmp_path, config, started):
        """Also in the middle of a student's training."""
        teacher = Run('teacher', config, tmp_path / 'teacher')
        finish_run(teacher, [90.0])
        run = Run('a', with_model(tmp_path), tmp_path / 'run', [], teacher)
        run.start()
        run.check()
        path = teacher.work_dir / 'result.json'
        path.write_text(path.read_text().replace(teacher.sha256, 'another'))
        teacher = Run('teacher', config, tmp_path / 'teacher')
        again = Run('a', run.config, run.work_dir, [], teacher)
        with pytest.raises(ValueError, match='another teacher') as caught:
            again.check()
        assert str(teacher.last_checkpoint) in str(caught.value)
        fcntl.flock(started[0][1]['lock'], fcntl.LOCK_UN)
        with pytest.raises(ValueError, match='another teacher'):
            again.start()
        assert len(started) == 1

    def test_a_teacher_that_is_lost_is_another(self, tmp_path, config, started):
        """Else a page could pair students of two teachers."""
        teacher = Run('teacher', config, tmp_path / 'teacher')
        finish_run(teacher, [90.0])
        run = Run('a', with_model(tmp_path), tmp_path / 'run', [], teacher)
        run.start()
        (teacher.work_dir / 'result.json').unlink()
        lost = Run('teacher', config, tmp_path / 'teacher')
        with pytest.raises(ValueError, match='which has no result now'):
            Run('a', run.config, run.work_dir, [], lost).check()

    def test_a_score_is_of_the_checkpoint_that_is_there(self, tmp_path, config):
        given = tmp_path / 'given.pth'
        given.write_bytes(b'given')
        score(Run('a', config, tmp_path / 'run', checkpoint=given), 71.5)
        Run('a', config, tmp_path / 'run', checkpoint=given).check()
        given.write_bytes(b'trained anew')
        with pytest.raises(ValueError, match='score of another file'):
            Run('a', config, tmp_path / 'run', checkpoint=given).check()

    def test_how_often_something_is_written_is_none(self, tmp_path):
        hooks = dict(checkpoint=dict(interval=1), logger=dict(interval=9), x=dict(y=1))
        written = with_model(tmp_path, default_hooks=hooks)
        options = ['default_hooks.checkpoint.interval=5']
        options.append('default_hooks.logger.interval=5')
        plain = Run('a', written, tmp_path / 'a')
        assert Run('a', written, tmp_path / 'a', options).settings == plain.settings
        options = ['default_hooks.x.y=5']
        assert Run('a', written, tmp_path / 'a', options).settings != plain.settings

    def test_an_option_counts_as_what_it_makes(self, tmp_path):
        written = Run('a', with_model(tmp_path, lr=0.5), tmp_path / 'a')
        same = Run('a', with_model(tmp_path), tmp_path / 'a', ['lr=0.5'])
        assert written.settings == same.settings


class TestResult:
    def test_of_a_run_that_ended_well(self, run):
        assert run.finished is False
        finish_run(run, [10.0, 30.0, 20.0])
        assert run.finished is True
        assert run.top1 == 20.0  # the last, not the best
        again = Run(run.name, run.config, run.work_dir)
        assert again.result['curve'] == [[1, 10.0], [2, 30.0], [3, 20.0]]
        digest = hashlib.sha256(b'weights of the run').hexdigest()
        assert again.result['checkpoint_sha256'] == digest
        assert again.result['teacher_sha256'] is None

    def test_names_the_teacher_that_it_had(self, tmp_path, config):
        teacher = Run('teacher', config, tmp_path / 'teacher')
        finish_run(teacher, [90.0])
        run = Run('a', with_model(tmp_path), tmp_path / 'run', [], teacher)
        finish_run(run, [50.0])
        digest = hashlib.sha256(b'weights of teacher').hexdigest()
        assert run.result['teacher_sha256'] == digest

    @pytest.mark.parametrize('epochs', [0, 1, 2])
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

        monkeypatch.setattr(Path, 'replace', killed)
        with pytest.raises(KeyboardInterrupt):
            finish_run(run, [10.0])
        monkeypatch.undo()
        assert run.finished is False
        assert list(run.work_dir.glob('result.json.*'))

    def test_a_scored_checkpoint_without_a_log_is_no_result(self, tmp_path, config):
        run = Run('a', config, tmp_path / 'run', checkpoint=tmp_path / 'given.pth')
        run.work_dir.mkdir()
        with pytest.raises(RuntimeError, match='no score'):
            run.write_result()

    def test_a_failure_is_kept_until_it_is_finished(self, run):
        assert run.failure is None
        run.note_failure('it broke')
        assert Run(run.name, run.config, run.work_dir).failure == 'it broke'
        finish_run(run, [10.0])
        assert run.failure is None
        run.note_failure(None)
        run.note_failure(None)
        assert not (run.work_dir / 'failed.json').exists()

    def test_of_a_checkpoint_that_was_there(self, tmp_path, config):
        given = tmp_path / 'given.pth'
        given.write_bytes(b'given')
        run = Run('a', config, tmp_path / 'run', checkpoint=given)
        score(run, 71.5)
        assert run.top1 == 71.5
        assert run.result['checkpoint_sha256'] == hashlib.sha256(b'given').hexdigest()


def test_what_runs_were_made_with_is_said_once(tmp_path, config, started, monkeypatch):
    monkeypatch.setattr(runs, 'cores', lambda: 4)
    monkeypatch.setattr(runs, 'versions', lambda: dict(torch='2'))
    monkeypatch.setattr(runs, 'machine', lambda: 'a machine')
    found = [Run(name, config, tmp_path / name) for name in 'abc']
    for run, own in zip(found, ({'OMP_NUM_THREADS': '1'}, None, {}), strict=True):
        run.start(own)
    for run in found[:2]:
        finish_run(run, [50.0])
    found[2].work_dir.joinpath('starts.json').write_text('{"starts": []}')
    assert runs.made_with(found) == dict(
        commits=['abc'],
        versions=[dict(torch='2')],
        machines=['a machine'],
        threads=[1, 4],
    )
    assert runs.made_with([]) == dict(commits=[], versions=[], machines=[], threads=[])


def test_seconds_are_those_of_all_starts(run):
    """Each from its beginning to the last line of its own log."""
    starts = [dict(began=1000.0), dict(began=2000.0), dict(began=3000.0)]
    run.work_dir.mkdir(parents=True)
    (run.work_dir / 'starts.json').write_text(json.dumps(dict(starts=starts)))
    for name, end in (('a', 1010.0), ('b', 2005.0)):  # the third wrote nothing yet
        log = run.work_dir / name / f'{name}.log'
        log.parent.mkdir()
        log.touch()
        os.utime(log, (end, end))
    assert run.seconds == 15.0
