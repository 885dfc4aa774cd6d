import io
import json
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from rich.console import Console
from rich.progress import Progress
from tiny import CONFIGS

from cakd_mm.utils import runs
from cakd_mm.utils.runs import Run, train_all

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
        assert run.top1 == 20.0

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
        assert run.top1 == 30.0

    def test_files_elsewhere_are_not_its_own(self, run):
        write_log(run.work_dir / 'deeper', epoch(1, 1.0, 10.0))
        assert run.curve('loss') == []


class TestFinished:
    @pytest.mark.parametrize(
        ('epochs', 'expected'), [(0, False), (1, False), (2, False), (3, True)]
    )
    def test_with_the_score_of_its_last_epoch(self, run, epochs, expected):
        lines = [line for i in range(epochs) for line in epoch(i + 1, 1.0, 10.0)]
        write_log(run.work_dir, lines)
        assert run.finished is expected

    def test_not_before_the_last_epoch_is_scored(self, run):
        write_log(run.work_dir, epoch(2, 1.0, 10.0) + epoch(3, 1.0, 10.0)[:1])
        assert run.curve('loss')[-1][0] == 3
        assert run.finished is False


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
    """Stands for a training process: ends at the n-th look with a code."""

    def __init__(self, looks=1, code=0):
        self.looks, self.code = looks, code
        self.returncode, self.killed = None, False

    def poll(self):
        self.looks -= 1
        if self.looks <= 0:
            self.returncode = self.code
        return self.returncode

    def kill(self):
        self.killed = True


@pytest.fixture
def started(monkeypatch):
    """Commands and options given to ``subprocess.Popen``, and what they print."""
    calls = []

    def popen(command, **options):
        options['stdout'].write('said\n')
        calls.append((command, options))
        return Process()

    monkeypatch.setattr(runs.subprocess, 'Popen', popen)
    return calls


class TestStart:
    def test_anew(self, run, started):
        run.start()
        [(command, options)] = started
        tool = str(CONFIGS.parent / 'tools' / 'train.py')
        start = [sys.executable, '-W', 'ignore', tool]
        assert command == [*start, str(run.config), '--work-dir', str(run.work_dir)]
        assert options['env']['OMP_NUM_THREADS'] == '1'
        assert options['env']['PATH']
        assert run.log.read_text() == 'said\n'
        assert run.process is not None

    def test_from_the_newest_checkpoint(self, run, started):
        run.work_dir.mkdir(parents=True)
        (run.work_dir / 'last_checkpoint').write_text('epoch_1.pth')
        run.start()
        assert started[0][0][-1] == '--resume'

    def test_a_folder_without_checkpoint_is_no_reason_to_resume(self, run, started):
        run.work_dir.mkdir(parents=True)
        (run.work_dir / 'epoch_1.pth').touch()
        run.start()
        assert '--resume' not in started[0][0]

    @pytest.mark.parametrize('resume', [True, False])
    def test_options_come_last(self, tmp_path, config, started, resume):
        work_dir = tmp_path / 'run'
        if resume:
            work_dir.mkdir()
            (work_dir / 'last_checkpoint').write_text('epoch_1.pth')
        Run('a', config, work_dir, ['a=1', 'b.c=2']).start()
        command = started[0][0]
        assert command[-3:] == ['--cfg-options', 'a=1', 'b.c=2']
        assert ('--resume' in command[:-3]) is resume

    def test_the_installed_tool_where_there_is_no_checkout(self, monkeypatch, tmp_path):
        package = tmp_path / 'site-packages' / 'cakd_mm'
        monkeypatch.setattr(runs, '__file__', str(package / 'utils' / 'runs.py'))
        assert runs.train_tool() == package / '.mim' / 'tools' / 'train.py'
        assert Path(runs.train_tool()).parts[-3:] == ('.mim', 'tools', 'train.py')


class TestTrainAll:
    @pytest.fixture
    def console(self, monkeypatch):
        monkeypatch.setattr(runs.time, 'sleep', lambda seconds: None)
        return Console(file=io.StringIO(), width=200)

    @pytest.fixture
    def make(self, tmp_path, config, monkeypatch):
        """Build runs whose process writes its log at once and ends later."""
        order = []

        def build(name, done=False, looks=1, code=0):
            run = Run(name, config, tmp_path / name)
            lines = [line for i in (1, 2, 3) for line in epoch(i, 1.0, 10.0 * i)]
            if done:
                write_log(run.work_dir, lines)

            def start():
                alive = [
                    r.name for r in build.runs if r.process and r.process.looks > 0
                ]
                order.append((*alive, name))
                run.log.write_text(''.join(f'line {i}\n' for i in range(40)))
                write_log(run.work_dir, lines if not code else lines[:2])
                run.process = Process(looks, code)

            monkeypatch.setattr(run, 'start', start)
            build.runs.append(run)
            return run

        build.runs = []

        build.order = order
        return build

    def test_finished_runs_are_left_out(self, make, console):
        all_runs = [make('a'), make('b', done=True), make('c')]
        progress = Progress(console=console)
        train_all(all_runs, jobs=1, progress=progress)
        assert make.order == [('a',), ('c',)]
        assert [(task.completed, task.total) for task in progress.tasks] == [(3, 3)] * 3
        printed = console.file.getvalue()
        assert 'a: 30.00 %' in printed
        assert 'c: 30.00 %' in printed
        assert 'b: ' not in printed

    def test_all_finished_starts_nothing(self, make, console):
        train_all([make('a', done=True)], jobs=2, progress=Progress(console=console))
        assert make.order == []

    def test_so_many_at_a_time(self, make, console):
        all_runs = [make('a', looks=2), make('b'), make('c'), make('d')]
        train_all(all_runs, jobs=2, progress=Progress(console=console))
        # Who was running when the last one was started.
        assert make.order == [('a',), ('a', 'b'), ('a', 'c'), ('d',)]
        assert all(run.process.returncode == 0 for run in all_runs)

    def test_a_failure_ends_them_all_and_shows_the_log(self, make, console, tmp_path):
        all_runs = [make('a', looks=9), make('b', looks=1, code=7), make('c')]
        with pytest.raises(SystemExit) as stopped:
            train_all(all_runs, jobs=2, progress=Progress(console=console))
        text = str(stopped.value)
        assert text.startswith(f'b failed; the end of {tmp_path / "b.log"}:\nline 25\n')
        assert text.endswith('line 39\n')
        assert all_runs[0].process.killed
        assert not all_runs[1].process.killed
        assert all_runs[2].process is None
