"""Configs of one's own on bases ``cakd_mm::...``, from a folder outside the checkout.

Trained, resumed, scored and extracted by the tools, and scored by mmpretrain's own.
"""

import json
import logging
import re
import uuid
from pathlib import Path

import mmpretrain
import pytest
import torch
from mmengine.logging import MMLogger
from pages import JOINED

from cakd_mm import cli

SMALL = """
train_dataloader = dict(batch_size=32, dataset=dict(indices=64))
val_dataloader = dict(dataset=dict(indices=70))
test_dataloader = dict(dataset=dict(indices=70))
train_cfg = dict(max_epochs=2)
experiment_name = {name!r}
"""
TEACHER = "_base_ = 'cakd_mm::vanilla/resnet20_digits.py'"
OF_ITS_OWN = """
model = dict(
    {more}
    teacher=dict(_delete_=True, cfg_path='teacher.py'),
    teacher_ckpt='work_dirs/teacher/epoch_2.pth',
)
"""
STUDENTS = dict(
    single="_base_ = 'cakd_mm::cakd/demo_digits.py'" + OF_ITS_OWN.format(more=''),
    joined=JOINED.format(method='cakd_logit_feature')
    + """
_base_.distiller.balancer.update(ratio=0.5)
_base_.distiller.distill_losses.loss_cakd.update(gamma=8.0)
"""
    + OF_ITS_OWN.format(more='distiller=_base_.distiller,'),
    nested="""
_base_ = './single.py'
model = dict(architecture=dict(backbone=dict(depth=14)))
""",
)
METRIC = 'accuracy/top1'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of a user's, and the current one."""
    folder = tmp_path / 'a folder of mine'
    folder.mkdir()
    for name, text in dict(STUDENTS, teacher=TEACHER).items():
        small = SMALL.format(name=uuid.uuid4().hex)
        (folder / f'{name}.py').write_text(f'{text}\n{small}')
    monkeypatch.chdir(folder)
    monkeypatch.setenv('LOCAL_RANK', '0')
    return folder


@pytest.fixture
def warnings(monkeypatch):
    """What mmengine's loggers warn of while the test runs."""
    texts = []
    genuine = MMLogger.callHandlers

    def keep(self, record):
        if record.levelno >= logging.WARNING:
            texts.append(record.getMessage())
        genuine(self, record)

    monkeypatch.setattr(MMLogger, 'callHandlers', keep)
    return texts


def newest_scores(work_dir: Path) -> list[float]:
    file = sorted(work_dir.glob('*/vis_data/scalars.json'))[-1]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [line[METRIC] for line in lines if METRIC in line]


@pytest.mark.parametrize('name', ['joined', 'nested'])  # which reads `single`
def test_the_whole_way(folder, name, warnings, capsys, monkeypatch):
    cli.main(['train', 'teacher.py'])
    cli.main(['train', f'{name}.py'])
    run = folder / 'work_dirs' / name
    first = newest_scores(run)
    assert len(first) == 2

    # The teacher is the file of one's own, the student has what is written.
    student = torch.load(run / 'student.pth', weights_only=False)
    depth = {'nested': 14}.get(name, 8)
    blocks = {key.split('.')[2] for key in student['state_dict'] if '.layers.' in key}
    count = sum('conv1.weight' in key for key in student['state_dict'])
    assert (depth - 2) // 2 in (count - 1, count), (blocks, count)

    # Resumed from its first epoch, it ends as the whole run did.
    cli.main(['train', f'{name}.py', '--resume', str(run / 'epoch_1.pth')])
    # It begins with the score of its checkpoint. Two starts in one second share a log.
    assert newest_scores(run)[-2:] == first
    again = torch.load(run / 'student.pth', weights_only=False)['state_dict']
    for key, value in student['state_dict'].items():
        assert torch.equal(again[key], value), key

    # Scored and extracted by our tools, and scored by mmpretrain's own: on our
    # config by way of `run`, on the student's without us.
    capsys.readouterr()
    cli.main(['test', f'{name}.py', str(run / 'epoch_2.pth')])
    cli.main(['extract', f'{name}.py', str(run / 'epoch_2.pth'), '--out', 'out.pth'])
    if depth == 8:  # the student of our own config, which has a name too
        named = ['cakd_mm::cakd/demo_digits.py', str(run / 'epoch_2.pth')]
        cli.main(['extract', *named, '--out', 'named.pth'])
        assert Path('named.pth').is_file()
    tool = Path(mmpretrain.__file__).parent / '.mim/tools/test.py'
    cli.main(['run', str(tool), f'{name}.py', str(run / 'epoch_2.pth')])
    monkeypatch.setattr('sys.argv', [str(tool)])
    cli.main(['run', str(tool), 'out.py', 'out.pth'])
    found = re.findall(r'accuracy/top1: ([\d.]+)', capsys.readouterr().out)
    assert [float(x) for x in found] == [pytest.approx(first[1], abs=1e-3)] * 3
    of_ours = [
        x for x in warnings if 'will be deprecated' not in x and 'alias' not in x
    ]
    assert of_ours == []


def test_mmpretrain_trains_on_them(folder):
    tool = Path(mmpretrain.__file__).parent / '.mim/tools/train.py'
    cli.main(['run', str(tool), 'teacher.py'])
    cli.main(['run', str(tool), 'single.py'])
    assert (folder / 'work_dirs/single/student.pth').is_file()


def test_the_teacher_of_a_checkout_is_hinted_at_by_commands_of_here(folder):
    text = "_base_ = 'cakd_mm::cakd/demo_digits.py'"
    (folder / 'plain.py').write_text(text)
    command = 'cakd-mm train cakd_mm::vanilla/resnet20_digits.py'
    with pytest.raises(FileNotFoundError, match=f'teacher_ckpt.*{command}'):
        cli.main(['train', 'plain.py'])
