"""The demo's processes, whose training is a script of a few lines."""

import io
import json
import multiprocessing
import runpy
import signal
import sys
import time

import pytest
from processes import is_alive
from rich.console import Console
from tools_inside import TOOLS

# Takes as long as told, writes what a training leaves, and what it was started with.
SCRIPT = """
import json, os, sys, time
from pathlib import Path
work_dir = Path(sys.argv[3])
with (work_dir / 'starts').open('a') as starts:
    starts.write(json.dumps([os.getpid(), *sys.argv[4:]]) + '\\n')
time.sleep({seconds})
print('the end of the log')
if work_dir.name == {broken!r}:
    raise SystemExit(3)
folder = work_dir / '1' / 'vis_data'
folder.mkdir(parents=True)
lines = [dict(step=i + 1, **{{'accuracy/top1': 10.0 + i}}) for i in range(30)]
(folder / 'scalars.json').write_text('\\n'.join(map(json.dumps, lines)))
"""


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """The demo's functions, and a script in the place of ``tools/train.py``."""
    found = runpy.run_path(str(TOOLS / 'demo.py'))
    script = tmp_path / 'train.py'

    def write_script(seconds=0.0, broken=''):
        script.write_text(SCRIPT.format(seconds=seconds, broken=broken))
        return found

    monkeypatch.setitem(found['main'].__globals__, 'TRAIN', script)
    monkeypatch.setitem(found['main'].__globals__, 'POLL', 0.05)
    return write_script


def plan(tool, folder):
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.setattr(sys, 'argv', ['demo.py', '--work-dir', str(folder)])
        groups = tool['plan'](tool['parse_args']())
    return [run for runs in groups.values() for run in runs]


def starts(run):
    lines = (run.work_dir / 'starts').read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_everything_is_trained_once_the_students_after_their_teacher(demo, tmp_path):
    tool, console = demo(), Console(file=io.StringIO(), width=200)
    runs = plan(tool, tmp_path / 'demo')
    tool['train_all'](runs, 2, console)
    tool['train_all'](runs, 2, console)
    assert [len(starts(run)) for run in runs] == [1] * 7
    teacher, student, cakd = runs[0], runs[1], runs[4]
    assert (teacher.score, student.score) == (39.0, 19.0)  # after 30 and 10 epochs
    assert 'student + CAKD, seed 2: 19.00 %' in console.file.getvalue()
    checkpoint = teacher.work_dir / 'epoch_30.pth'
    options = ['--resume', '--cfg-options', 'randomness.seed=0']
    assert starts(student)[0][1:] == options
    assert starts(cakd)[0][1:] == [*options, f'model.teacher_ckpt={checkpoint}']
    assert (cakd.work_dir / 'starts').stat().st_mtime >= teacher.end.stat().st_mtime


def test_a_failure_is_shown_with_its_log_and_command(demo, tmp_path):
    tool = demo(broken='teacher')
    runs = plan(tool, tmp_path / 'demo')
    with pytest.raises(SystemExit) as end:
        tool['train_all'](runs, 1, Console(file=io.StringIO()))
    command, cause = str(end.value).splitlines()
    assert 'resnet20_digits.py --work-dir' in command
    failed = f'teacher resnet20 failed (exit status 3), see {runs[0].log}'
    assert cause == f'{failed}: the end of the log'
    assert not runs[0].finished


@pytest.mark.skipif(sys.platform != 'linux', reason='needs prctl')
def test_killed_it_leaves_no_process_and_goes_on(demo, tmp_path):
    tool = demo(seconds=120)
    runs = plan(tool, tmp_path / 'demo')[:1]
    silent = Console(file=io.StringIO())
    process = multiprocessing.get_context('fork').Process(
        target=tool['train_all'], args=(runs, 1, silent)
    )
    process.start()
    deadline = time.monotonic() + 60
    noted = runs[0].work_dir / 'starts'
    while not (noted.is_file() and noted.read_text().endswith('\n')):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    [[child, *_]] = starts(runs[0])
    while is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    tool = demo()
    tool['train_all'](runs, 1, silent)
    assert starts(runs[0])[1][1] == '--resume'
