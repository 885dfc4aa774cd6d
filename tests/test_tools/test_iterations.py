"""``tools/train.py`` with a config that counts iterations."""

import re

import pytest
import torch
from tiny import CONFIGS, save_teacher
from tools_inside import run_tool

CONFIG = """
_base_ = [
    '{configs}/_base_/tasks/r20_r8_digits.py',
    '{configs}/_base_/methods/ctkd.py',
]
model = dict(distiller=_base_.distiller, teacher_ckpt='{teacher}')
train_dataloader = dict(
    batch_size=16, sampler=dict(type='InfiniteSampler'), dataset=dict(indices=40)
)
val_dataloader = dict(dataset=dict(indices=20))
train_cfg = dict(
    _delete_=True, type='ResumableIterLoop', max_iters=5, val_interval=2
)
param_scheduler = dict(_delete_=True, type='PolyLR', by_epoch=False, end=5)
default_hooks = dict(
    checkpoint=dict(by_epoch=False),
    logger=dict(interval=2),
    warmup=dict(type='DistillWarmupHook', iters=4),
    distill_epoch=dict(iters_per_epoch=3),
)
"""


@pytest.fixture
def config(tmp_path):
    teacher = save_teacher(tmp_path / 'teacher.pth')
    file = tmp_path / 'by_iterations.py'
    file.write_text(CONFIG.format(configs=CONFIGS, teacher=teacher))
    return file


def weights(folder, name):
    return torch.load(folder / name, weights_only=False)['state_dict']


def test_train_and_go_on_from_the_newest_checkpoint(
    config, tmp_path, monkeypatch, capsys
):
    work_dir = tmp_path / 'run'
    run_tool(monkeypatch, 'train.py', config, '--work-dir', work_dir)
    text = capsys.readouterr().out
    text = text[text.index('Training ') :]
    assert 'length   5 iterations\n' in text
    assert re.findall(r'Iter\(train\) \[(\d)/5\]', text) == ['2', '4']
    assert re.findall(r'warmup: (\S+)', text) == ['0.5000', '1.0000']
    # Minus (1 + cos(pi e / 10)) / 2 less than 0 in epochs 1 and 2.
    factors = [-0.0245, -0.0955]
    found = map(float, re.findall(r'ctkd/reversal: (\S+)', text))
    assert list(found) == pytest.approx([factors[0], sum(factors) / 2], abs=1e-4)
    assert text.count('Iter(val) [1/1]') == 3
    assert 'it is that of iteration 5, the last, accuracy/top1' in text
    assert ', 5 iterations in ' in text
    assert 'poch' not in text.replace('Epoch', 'poch').split('Trained ')[-1]
    assert 'Epoch(' not in text

    whole = weights(work_dir, 'iter_5.pth')
    for name in ('iter_5.pth', 'student.pth'):
        (work_dir / name).unlink()
    options = ('--work-dir', work_dir, '--resume', '--fast')
    run_tool(monkeypatch, 'train.py', config, *options)
    text = capsys.readouterr().out
    assert 'iter_4.pth, the newest whole checkpoint' in text
    assert '5 iterations, goes on after step 4' in text
    left_out = 'leaves out the resident training set: its loop cannot do it; '
    assert f"{left_out}train_cfg.type='ResumableTrainLoop' could." in text
    assert text.count('Iter(val) [1/1]') == 2  # that of iteration 4, too
    again = weights(work_dir, 'iter_5.pth')
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert (work_dir / 'student.pth').is_file()
