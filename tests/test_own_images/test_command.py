"""One command from a folder of images to a student, and the same command again."""

import os
import runpy
import sys
from textwrap import dedent
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmpretrain.visualization import UniversalVisualizer
from own_images import CLASSES, options, write_images

from cakd_mm.own_images import Run, distill
from cakd_mm.own_images.command import _tell
from cakd_mm.own_images.part import run_tool
from cakd_mm.own_images.result_folder import ResultFolder


@pytest.fixture
def started(monkeypatch):
    """Let tools run in this process, and note with what they were started."""
    commands: list[list[str]] = []

    def start(command, env, preexec_fn):
        monkeypatch.setenv('LOCAL_RANK', '0')
        monkeypatch.setattr(sys, 'argv', command[3:])
        UniversalVisualizer._instance_dict.clear()
        commands.append([os.path.basename(command[3]), *command[4:]])
        runpy.run_path(command[3], run_name='__main__')
        return SimpleNamespace(returncode=0)

    place = 'cakd_mm.own_images.part.subprocess'
    monkeypatch.setattr(place, SimpleNamespace(run=start))
    return commands


def test_teacher_student_and_the_student_alone(started, tmp_path, capsys):
    root = write_images(tmp_path / 'my images')
    asked = options(root, epochs=1, val_share=0.25)
    out = tmp_path / 'out' / 'of it'
    distill(asked, out, Run(configs_only=True))
    assert not started
    assert 'The same command without --configs-only' in capsys.readouterr().out
    distill(asked, out, Run(with_alone=True))
    printed = capsys.readouterr().out
    parts = ['teacher', 'student', 'alone']
    assert started == [['train.py', str(out / f'{name}.py')] for name in parts]
    student = torch.load(out / 'student' / 'student.pth', weights_only=False)
    assert tuple(student['meta']['dataset_meta']['classes']) == CLASSES
    top1 = student['meta']['scores']['accuracy/top1']
    assert f'{top1:6.2f} %  student.py' in printed
    assert 'Top-1 on 9 images for validation' in printed
    assert ' 33.33 %  calling every image the same class' in printed
    assert f"cakd-mm report '{out}' --out '{out}'" in printed
    *lines, last = dedent(printed.partition('in Python:\n')[2]).splitlines()
    names: dict = {}
    exec('\n'.join(lines), names)
    image = str(root / 'white' / '0.png')
    assert eval(last.replace('image.jpg', image), names) in CLASSES
    assert (out / 'sweep.png').is_file()
    assert '<title>Runs of student' in (out / 'report.html').read_text(encoding='utf-8')
    table = (out / 'sweep.md').read_text()
    assert '| student |' in table
    assert '| alone |' in table
    check_equal_terms(out)

    distill(asked, out, Run(with_alone=True))
    assert len(started) == 3
    assert f'student is finished: {out / "student"}' in capsys.readouterr().out

    # Settings of what is only logged make it no other training.
    with (out / 'schedule.py').open('a') as file:
        file.write("log_level = 'ERROR'\n")
    distill(asked, out, Run(with_alone=True))
    assert len(started) == 3

    # A training that was stopped goes on; one that has changed is not taken for it.
    with (out / 'schedule.py').open('a') as file:
        file.write('train_cfg.update(val_begin=1)\n')
    with pytest.raises(ValueError, match='teacher was begun there with other settings'):
        distill(asked, out, Run())
    assert len(started) == 3

    checkpoint = str(out / 'teacher' / 'epoch_1.pth')
    given = options(root, epochs=1, teacher_ckpt=checkpoint)
    distill(given, tmp_path / 'given', Run(arguments=['--amp']))
    tested, trained = started[3:]
    assert tested == ['test.py', str(tmp_path / 'given' / 'teacher.py'), checkpoint]
    assert trained[2:] == ['--amp']
    assert '%  teacher.py' in capsys.readouterr().out


@pytest.mark.parametrize(('alone', 'helped'), [(50.0, False), (40.0, True)])
def test_a_teacher_that_did_not_help(alone, helped, tmp_path, capsys):
    (tmp_path / 'val.txt').write_text('a.png 0\nb.png 0\nc.png 1\n')
    parts = dict(alone=dict(top1=alone), student=dict(top1=45.0))
    student = SimpleNamespace(config='', checkpoint='', work_dir=tmp_path)
    _tell(ResultFolder(tmp_path, parts, dict(seed=0)), student)
    printed = capsys.readouterr().out
    assert ('The teacher did not help' in printed) is not helped
    assert ' 66.67 %  calling every image the same class' in printed


@pytest.mark.parametrize('word', ['--resume', 'train_cfg.max_epochs=3'])
def test_what_is_not_given_to_training(word, tmp_path):
    with pytest.raises(ValueError, match='It cannot be given to training from here'):
        distill(options(tmp_path), tmp_path / 'out', Run(arguments=[word]))


def test_settings_of_a_model_where_several_are_trained(tmp_path):
    root = write_images(tmp_path / 'images')
    run = Run(arguments=['--cfg-options', 'model.distiller.balancer=None'])
    with pytest.raises(ValueError, match=r'teacher\.py would .*student\.py\.'):
        distill(options(root, epochs=1), tmp_path / 'out', run)


def check_equal_terms(out):
    """The student alone has all that the student with a teacher has, but a teacher."""
    cfgs = [Config.fromfile(out / f'{name}.py') for name in ('student', 'alone')]
    distilled, alone = (cfg.to_dict() for cfg in cfgs)
    assert distilled.pop('model')['architecture'] == dict(
        cfg_path=str(out / 'alone.py')
    )
    for key in ('distiller', 'work_dir'):
        distilled.pop(key)
    alone.pop('model')
    alone.pop('work_dir')
    assert distilled == alone


def test_a_failure_and_its_command():
    command = [sys.executable, '-c', 'raise SystemExit(3)']
    with pytest.raises(SystemExit, match=r'teacher failed \(exit status 3\)') as error:
        run_tool('teacher', command)
    assert str(error.value).endswith("-c 'raise SystemExit(3)'")
