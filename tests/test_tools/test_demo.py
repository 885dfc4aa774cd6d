"""The demo's processes, whose training is a script of a few lines."""

import io
import json
import multiprocessing
import runpy
import signal
import sys
import time
from types import SimpleNamespace

import pytest
from mmengine.config import Config
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


def parsed(tool, *words):
    with pytest.MonkeyPatch().context() as patch:
        patch.setattr(sys, 'argv', ['demo.py', *words])
        return tool['parse_args']()


def plan(tool, folder, task='classification'):
    args = parsed(tool, '--work-dir', str(folder), '--task', task)
    return [run for runs in tool['plan'](args).values() for run in runs]


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


@pytest.mark.parametrize(
    ('task', 'project', 'key', 'logged'),
    [
        ('classification', 'mmpretrain', 'accuracy/top1', 62.5),
        ('segmentation', 'mmseg', 'mIoU', 62.5),
        ('detection', 'mmdet', 'coco/bbox_mAP', 0.625),
    ],
)
def test_each_task_has_its_runs_and_its_score_in_percent(
    demo, tmp_path, monkeypatch, task, project, key, logged
):
    tool = demo()
    monkeypatch.setitem(tool['main'].__globals__, 'find_spec', lambda name: name)
    runs = plan(tool, tmp_path, task)
    teacher, alone, cakd = runs[0], runs[1:4], runs[4:]
    assert [run.seed for run in alone] == [run.seed for run in cakd] == [0, 1, 2]
    assert {run.teacher for run in alone} == {None}
    assert all(run.teacher is teacher for run in cakd)
    assert {run.epochs for run in alone} == {run.epochs for run in cakd}
    # The student of CAKD is the one that is trained alone, on the same scenes.
    own, other = (Config.fromfile(tool['CONFIGS'] / x[0].config) for x in (alone, cakd))
    for name in ('train_dataloader', 'test_dataloader', 'optim_wrapper'):
        assert own[name] == other[name]
    folder = cakd[1].work_dir / '1' / 'vis_data'
    folder.mkdir(parents=True)
    lines = [
        {'epoch': 4, 'step': 7, 'loss': 1.0},
        {key: logged, 'step': cakd[1].epochs},
    ]
    (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    assert (cakd[1].epoch, cakd[1].score) == (4, 62.5)
    assert cakd[1].checkpoint == cakd[1].work_dir / f'epoch_{cakd[1].epochs}.pth'
    assert cakd[1].demo.project == project
    where = parsed(tool, '--task', task).work_dir
    suffix = '' if task == 'classification' else f'-{task}'
    assert where.as_posix() == f'work_dirs/demo{suffix}'


@pytest.mark.parametrize('extra', ['seg', 'det'])
def test_a_missing_project_is_named_with_its_extra(demo, monkeypatch, capsys, extra):
    tool = demo()
    monkeypatch.setitem(tool['main'].__globals__, 'find_spec', lambda name: None)
    task = dict(seg='segmentation', det='detection')[extra]
    with pytest.raises(SystemExit):
        parsed(tool, '--task', task)
    assert f"type pip install 'cakd_mm[{extra}]'" in capsys.readouterr().err


TEST = """
import json, sys
from pathlib import Path
config, checkpoint, _, work_dir = sys.argv[1:]
if 'broken' in checkpoint:
    sys.exit('it is broken')
folder = Path(work_dir) / '1'
folder.mkdir(parents=True)
(folder / '1.json').write_text(json.dumps({'coco/bbox_mAP': 0.25, 'other': 1}))
(Path(work_dir) / 'seen').write_text(config)
"""


def test_the_score_of_an_extracted_student_is_of_its_projects_tool(
    demo, tmp_path, monkeypatch
):
    tool = demo()
    package = tmp_path / 'mmdet'
    (package / '.mim' / 'tools').mkdir(parents=True)
    (package / '.mim' / 'tools' / 'test.py').write_text(TEST)
    names = tool['main'].__globals__
    origin = SimpleNamespace(origin=str(package / '__init__.py'))
    monkeypatch.setitem(names, 'find_spec', lambda name: origin)
    # Without the import of the whole package, which is not what is tested.
    monkeypatch.setitem(names, 'ALONE', [])
    detection, work_dir = tool['DEMOS']['detection'], tmp_path / 'alone'
    for _ in range(2):  # The scores of a demo before this one are in nobody's way.
        assert tool['score_alone'](detection, tmp_path / 'a.pth', work_dir) == 25.0
    assert (work_dir / 'seen').read_text() == str(tmp_path / 'a.py')
    with pytest.raises(SystemExit, match='mmdet could not score .*\n.*it is broken'):
        tool['score_alone'](detection, tmp_path / 'broken.pth', work_dir)
