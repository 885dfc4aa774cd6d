"""Plans run by real processes, whose training is a script of a few lines."""

import fcntl
import io
import json
import multiprocessing
import signal
import sys
import time
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import pytest
from processes import is_alive
from rich.console import Console
from rich.progress import Progress

from research import runs, scheduling
from research.runs import Run
from research.scheduling import Schedule, slots

# Takes as long as told, writes what a training leaves, and when it ran.
SCRIPT = """
import json, os, sys, time
from pathlib import Path
from types import SimpleNamespace
config = sys.argv[1]
work_dir = Path(sys.argv[sys.argv.index('--work-dir') + 1])
own = dict(x.split('=', 1) for x in sys.argv[sys.argv.index('--cfg-options') + 1:])
began = time.monotonic()
teacher = own.get('model.teacher_ckpt')
assert teacher is None or Path(teacher).is_file(), teacher
print('said', own['name'])
if own['name'] == 'odd':
    sys.stdout.flush()
    sys.stdout.buffer.write('[/data/x] \u2588'.encode()[:-1])
    raise SystemExit(3)
if own['name'] == 'killed':
    os.kill(os.getpid(), 9)
time.sleep(float(own['seconds']))
if own['code'] != '0':
    raise SystemExit('it broke')
folder = work_dir / str(time.time_ns()) / 'vis_data'
folder.mkdir(parents=True)
line = dict(step=3, **{'accuracy/top1': float(own['top1'])})
if own['name'] != 'unscored':
    (folder / 'scalars.json').write_text(json.dumps(line))
(work_dir / 'epoch_3.pth').write_bytes(b'weights')
times = dict(began=began, ended=time.monotonic(), slot=os.environ['SLOT'])
(work_dir / 'times.json').write_text(json.dumps(times))
"""


@pytest.fixture(autouse=True)
def _script(tmp_path, monkeypatch):
    script = tmp_path / 'train.py'
    script.write_text(SCRIPT)
    monkeypatch.setattr(runs, 'tool', lambda name: script)
    monkeypatch.setattr(scheduling, 'POLL', 0.01)


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=300)


@pytest.fixture
def make(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text('train_cfg = dict(max_epochs=3)\nmodel = dict(teacher_ckpt=1)\n')

    def build(name, teacher=None, seconds=0, code=0, top1=50.0):
        options = [f'name={name}', f'seconds={seconds}', f'code={code}']
        return Run(name, config, tmp_path / name, [*options, f'top1={top1}'], teacher)

    return build


@pytest.fixture
def train(console):
    def run(all_runs, jobs=2, **options):
        places = [dict(SLOT=str(i)) for i in range(jobs)]
        schedule = Schedule(all_runs, places, Progress(console=console), **options)
        return schedule.run()

    return run


def times(run):
    return json.loads((run.work_dir / 'times.json').read_text())


def test_teachers_first_wherever_they_stand(make, train):
    teacher = make('teacher', seconds=1)
    all_runs = [make('a', teacher), make('b'), teacher, make('c', teacher)]
    outcome = train(all_runs, jobs=3)
    assert (outcome.failed, outcome.out_of_time) == ({}, False)
    assert all(run.finished for run in all_runs)
    for name in (0, 3):
        assert times(all_runs[name])['began'] >= times(teacher)['ended']
    # What needs no teacher does not wait for it.
    assert times(all_runs[1])['began'] < times(teacher)['ended']


def test_so_many_at_a_time_each_in_a_place_of_its_own(make, train):
    all_runs = [make(f'run{i}', seconds=0.2) for i in range(4)]
    train(all_runs, jobs=2)
    found = [times(run) for run in all_runs]
    for one, other in combinations(found, 2):
        if one['began'] < other['ended'] and other['began'] < one['ended']:
            assert one['slot'] != other['slot']
    assert {x['slot'] for x in found} == {'0', '1'}


def test_finished_runs_are_never_repeated(make, train, console):
    """Neither those of an earlier schedule nor those of another one meanwhile."""
    first, second = make('a', top1=61.0), make('b', top1=62.0)
    waiting = [make('a', top1=61.0), make('b', top1=62.0)]
    place = [dict(SLOT='0')]
    later = Schedule(waiting, place, Progress(console=Console(file=io.StringIO())))
    train([first])
    train([make('a', top1=61.0), second])
    assert later._start(waiting) == []
    assert later.run().failed == {}
    assert [run.top1 for run in waiting] == [61.0, 62.0]
    assert len(first.starts) == len(second.starts) == 1
    printed = console.file.getvalue()
    assert printed.count('a: 61.00 %') == printed.count('b: 62.00 %') == 1


def test_a_failure_leaves_the_others_alone_and_is_tried_again(make, train, tmp_path):
    broken, fine = make('broken', code=1), make('fine', seconds=0.2)
    outcome = train([broken, fine])
    assert fine.finished
    assert not broken.finished
    log = tmp_path / 'broken.log'
    assert outcome.failed == {'broken': f'exit status 1: it broke ({log})'}
    assert train([make('mended'), broken]).failed.keys() == {'broken'}
    assert len(broken.starts) == 2


def test_a_teacher_that_fails_takes_its_students_with_it(make, train):
    teacher = make('teacher', code=1)
    students = [make('a', teacher), make('b', teacher)]
    alone = make('alone')
    outcome = train([teacher, *students, alone], jobs=1)
    assert outcome.failed.keys() == {'teacher', 'a', 'b'}
    assert outcome.failed['a'] == 'not run, because teacher failed'
    assert alone.finished
    assert not students[0].starts


@pytest.mark.parametrize(
    ('name', 'reason'),
    [
        ('odd', 'exit status 3: [/data/x]'),  # no markup, and no whole UTF-8
        ('unscored', 'has no score of epoch 3'),
        ('killed', 'killed by signal 9'),
    ],
)
def test_whatever_a_run_leaves_the_others_go_on(make, train, console, name, reason):
    odd, fine = make(name), make('fine', seconds=0.3)
    outcome = train([odd, fine, make('later')])
    assert outcome.failed.keys() == {name}
    assert reason in outcome.failed[name]
    assert reason in console.file.getvalue()
    assert fine.finished
    assert make(name).failure == outcome.failed[name]


def test_out_of_time_stops_what_runs(make, train):
    slow = make('slow', seconds=60)
    slow.note_failure('it broke')
    began = time.monotonic()
    outcome = train([slow, make('later')], jobs=1, deadline=began + 1)
    assert time.monotonic() - began < 30
    assert outcome.out_of_time is True
    assert not slow.finished
    assert slow.process.returncode == -signal.SIGKILL
    assert outcome.failed == {}
    assert make('slow').failure is None  # forgotten, because it was tried again


def test_a_run_that_another_process_is_at_is_waited_for(make, train, console):
    run = make('a')
    run.work_dir.mkdir()
    with (run.work_dir / 'lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert train([run], deadline=time.monotonic() + 0.5).out_of_time
    assert run.starts == []
    assert console.file.getvalue().count('another process is at it; waiting') == 1
    train([run])
    assert run.finished


def test_other_settings_are_refused_before_anything_starts(make, train):
    train([make('a')])
    new, other = make('new'), make('a')
    other = replace(other, options=[*other.options, 'randomness.seed=1'])
    with pytest.raises(ValueError, match='other settings'):
        train([new, other])
    assert not new.starts


def test_a_teacher_that_changes_meanwhile_stops_its_students_alone(make, train):
    teacher = make('teacher')
    train([teacher])
    student, alone = make('a', teacher), make('alone')
    schedule = Schedule([student, alone], [dict(SLOT='0')], Progress(console=Console()))
    teacher.last_checkpoint.write_bytes(b'others')
    failed = schedule.run().failed
    assert failed.keys() == {'a'}
    assert f'{teacher.last_checkpoint}' in failed['a']
    assert alone.finished
    assert not student.starts


@pytest.mark.skipif(sys.platform != 'linux', reason='needs prctl')
def test_a_killed_process_leaves_no_training_behind(make):
    """Killed by SIGKILL, which runs no handler."""
    run = make('a', seconds=120)
    fork = multiprocessing.get_context('fork')
    ours, its = fork.Pipe()

    def start_and_wait():
        run.start(dict(SLOT='0'))
        its.send(run.process.pid)
        time.sleep(120)

    parent = fork.Process(target=start_and_wait)
    parent.start()
    child = ours.recv()
    assert is_alive(child)
    parent.kill()
    parent.join()
    deadline = time.monotonic() + 10
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(child)


def test_time_left_follows_the_pace(make, train, console, monkeypatch):
    done, waiting = make('done'), make('waiting')
    train([done])
    done.result['seconds'] = 3000.0  # a thousand an epoch
    schedule = Schedule([done, waiting], [{}], Progress(console=console))
    assert schedule.done() == 3
    assert schedule.time_left() == ', 50 min left'
    two = Schedule([done, waiting], [{}] * 2, Progress())
    assert two.time_left() == ', 25 min left'
    given = make('given')
    given.checkpoint = given.work_dir / 'epoch_3.pth'
    with_given = Schedule([done, waiting, given], [{}], Progress(console=console))
    assert with_given.total == 6  # what is only scored counts for nothing
    alone = Schedule([waiting], [{}], Progress())
    assert alone.time_left() == ''
    # A run that is running tells the pace too: an epoch in 120 s, one to go.
    alone.running, alone.began = [(waiting, {})], {'waiting': (100.0, 1)}
    monkeypatch.setattr(scheduling, 'time', SimpleNamespace(monotonic=lambda: 220.0))
    monkeypatch.setattr(Run, 'epoch', 2)
    assert alone.time_left() == ', 2 min left'


def test_without_a_terminal_a_line_now_and_then(make, train, console, monkeypatch):
    monkeypatch.setattr(scheduling, 'EVERY', 0.0)
    train([make('a', seconds=0.2)])
    assert '0 of 3 epochs' in console.file.getvalue()


class TestSlots:
    @pytest.fixture
    def machine(self, monkeypatch):
        def make(cores, gpus):
            monkeypatch.setattr(scheduling, 'cores', lambda: cores)
            cuda = scheduling.torch.cuda
            monkeypatch.setattr(cuda, 'is_available', lambda: gpus > 0)
            monkeypatch.setattr(cuda, 'device_count', lambda: gpus)

        return make

    def test_a_core_each_without_gpu(self, machine):
        machine(4, 0)
        assert slots() == [dict(OMP_NUM_THREADS='1')] * 4
        assert slots(2) == [dict(OMP_NUM_THREADS='2')] * 2
        assert slots(8) == [dict(OMP_NUM_THREADS='1')] * 8

    def test_gpus_are_shared_evenly(self, machine, monkeypatch):
        monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
        machine(16, 2)
        found = slots()
        assert [x['CUDA_VISIBLE_DEVICES'] for x in found] == list('01010101')
        assert {x['OMP_NUM_THREADS'] for x in found} == {'2'}
        machine(3, 1)
        assert len(slots()) == 3

    def test_only_gpus_that_the_user_left_visible(self, machine, monkeypatch):
        machine(16, 2)
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '2,GPU-7f')
        found = [x['CUDA_VISIBLE_DEVICES'] for x in slots(3)]
        assert found == ['2', 'GPU-7f', '2']

    @pytest.mark.parametrize('jobs', [0, -1, 1.5, 'many'])
    def test_other_numbers_are_refused(self, jobs):
        with pytest.raises(ValueError, match='--jobs'):
            slots(jobs)
