"""The command-line tools in one process: training, resuming and scoring."""

import json
import math
import os
import pickle
import runpy
import subprocess
import sys
import uuid
from pathlib import Path

import mmpretrain
import pytest
import torch
from mmengine.config import Config
from tiny import CONFIGS, save_teacher

ROOT = CONFIGS.parent
METRIC = 'accuracy/top1'
# Two steps per epoch, and a test split that makes odd percentages.
SMALL = (
    'train_dataloader.dataset.indices=64',
    'train_dataloader.batch_size=32',
    'val_dataloader.dataset.indices=70',
    'test_dataloader.dataset.indices=70',
)
ALONE = 'vanilla/resnet8_digits.py'
CAKD = 'cakd/demo_digits.py'


@pytest.fixture
def tool(monkeypatch):
    """Run a tool in this process, as ``python tools/<name> ...`` would."""
    monkeypatch.setenv('LOCAL_RANK', '0')

    def run(name, *arguments, run_name='__main__'):
        path = ROOT / 'tools' / name
        monkeypatch.setattr(sys, 'argv', [str(path), *map(str, arguments)])
        return runpy.run_path(str(path), run_name=run_name)

    return run


@pytest.fixture
def train(tool, tmp_path):
    """Train a shrunken config and return the work dir."""

    def run(config, *flags, epochs=1, name='run', options=()):
        work_dir = tmp_path / name
        options = (*SMALL, f'train_cfg.max_epochs={epochs}', *options)
        options += (f'experiment_name=run-{uuid.uuid4().hex}',)
        tool(
            *('train.py', CONFIGS / config, '--work-dir', work_dir),
            *(*flags, '--cfg-options', *options),
        )
        return work_dir

    return run


def scalars(work_dir):
    """Return all logged entries, in order."""
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for file in files for line in file.open()]


def accuracies(work_dir):
    return [entry[METRIC] for entry in scalars(work_dir) if METRIC in entry]


def weights(path):
    return torch.load(path, map_location='cpu', weights_only=False)['state_dict']


def effective(work_dir, config):
    """Return the config as the run saw it."""
    return Config.fromfile(work_dir / Path(config).name)


@pytest.mark.parametrize(
    ('given', 'environment', 'expected'),
    [
        (['--local-rank', '1'], None, '1'),
        (['--local_rank', '2'], None, '2'),
        (['--local-rank=3'], None, '3'),
        (['--local_rank=4'], '4', '4'),
        ([], '5', '5'),
        ([], None, '0'),
    ],
)
@pytest.mark.parametrize('name', ['train.py', 'test.py'])
def test_both_spellings_of_local_rank(
    tool, monkeypatch, name, given, environment, expected
):
    monkeypatch.delenv('LOCAL_RANK')
    if environment is not None:
        monkeypatch.setenv('LOCAL_RANK', environment)
    positional = ['checkpoint.pth'] if name == 'test.py' else []
    module = tool(name, CONFIGS / ALONE, *positional, *given, run_name='imported')
    args = module['parse_args']()
    module['launch'].read_config(args)
    assert os.environ['LOCAL_RANK'] == expected
    os.environ['LOCAL_RANK'] = '0'  # monkeypatch knows it and puts it back


def test_distils_then_scores_without_the_teacher(tool, train, tmp_path):
    teacher = save_teacher(tmp_path / 'teacher.pth')
    work_dir = train(CAKD, options=[f'model.teacher_ckpt={teacher}'], epochs=2)
    entries = scalars(work_dir)
    steps = [entry for entry in entries if 'distill.loss_cakd' in entry]
    assert len(steps) == 2
    for entry in steps:
        assert 0 < entry['distill.loss_cakd'] < math.inf
        total = entry['student.loss'] + entry['distill.loss_cakd']
        assert entry['loss'] == pytest.approx(total, rel=1e-5)
    trained = accuracies(work_dir)
    assert len(trained) == 2
    saved = weights(work_dir / 'epoch_2.pth')
    assert not [key for key in saved if key.startswith('teacher.')]
    assert (work_dir / 'student.pth').exists()
    assert (work_dir / 'student.py').exists()

    teacher.unlink()
    out = tmp_path / 'scores.pkl'
    tool(
        *('test.py', CONFIGS / CAKD, work_dir / 'epoch_2.pth', '--out', out),
        *('--work-dir', tmp_path / 'test', '--cfg-options', *SMALL),
    )
    [log] = (tmp_path / 'test').glob('*/*.json')
    assert json.loads(log.read_text())[METRIC] == trained[-1]
    with out.open('rb') as file:
        predictions = pickle.load(file)
    assert len(predictions) == 70
    right = [int(p['pred_label']) == int(p['gt_label']) for p in predictions]
    assert 100 * sum(right) / 70 == pytest.approx(trained[-1])


def test_resumed_run_equals_the_uninterrupted_one(train):
    whole = train(ALONE, name='whole', epochs=2)
    assert scalars(whole)[0]['lr'] == pytest.approx(0.05)
    part = train(ALONE, name='part', epochs=1)
    first = weights(part / 'epoch_1.pth')
    again = train(ALONE, '--resume', name='part', epochs=2)
    expected, found = weights(whole / 'epoch_2.pth'), weights(again / 'epoch_2.pth')
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert not torch.equal(first['head.fc.weight'], found['head.fc.weight'])
    # The epoch it goes on from is scored once more.
    assert accuracies(again) == [accuracies(whole)[0], *accuracies(whole)]
    logs = [file.read_text() for file in sorted(again.glob('*/*.log'))]
    assert 'resumed epoch: 1' in logs[-1]


def test_resume_names_a_missing_checkpoint(train, tmp_path):
    absent = str(tmp_path / 'absent.pth')
    with pytest.raises(FileNotFoundError, match='--resume') as caught:
        train(ALONE, '--resume', absent)
    assert repr(absent) in str(caught.value)


def test_mixed_precision_on_cpu_is_bf16(train):
    plain, mixed = train(ALONE, name='plain'), train(ALONE, '--amp', name='mixed')
    wrapper = effective(mixed, ALONE).optim_wrapper
    assert (wrapper.type, wrapper.dtype) == ('BF16OptimWrapper', 'bfloat16')
    expected, found = weights(plain / 'epoch_1.pth'), weights(mixed / 'epoch_1.pth')
    for key, value in found.items():
        assert value.dtype is expected[key].dtype
    weight = 'head.fc.weight'
    assert not torch.equal(found[weight], expected[weight])
    assert (found[weight] - expected[weight]).abs().max() < 0.05


def test_fp16_on_cpu_is_refused(train):
    with pytest.raises(ValueError, match=r"`optim_wrapper\.dtype` = 'float16'"):
        train(ALONE, '--amp', options=['optim_wrapper.dtype=float16'])


def test_auto_scale_lr(train):
    """The rate of 0.05 is meant for 64 images, not for 32."""
    entries = scalars(train(ALONE, '--auto-scale-lr'))
    assert entries[0]['lr'] == pytest.approx(0.025)


def test_demo_without_its_teacher_names_the_command(tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        tool('train.py', CONFIGS / CAKD, '--work-dir', 'out')
    message = str(caught.value)
    assert "`model.teacher_ckpt` = 'work_dirs/resnet20_digits/epoch_30.pth'" in message
    assert 'python tools/train.py configs/vanilla/resnet20_digits.py' in message
    assert not list(tmp_path.rglob('*.pth'))


# In an interpreter that has not imported cakd_mm: the config does.
MMPRETRAINS_TOOL = """
import runpy, sys
tool, options = sys.argv[1], sys.argv[2:]
assert 'cakd_mm' not in sys.modules
import yapf.yapflib.yapf_api
yapf.yapflib.yapf_api.FormatCode = lambda text, **_: (text, True)  # takes long
for config, work_dir in zip({configs}, {work_dirs}):
    sys.argv = [tool, config, '--work-dir', work_dir, '--cfg-options', *options]
    if 'cakd/' not in config:
        sys.argv = [part for part in sys.argv if not part.startswith('model.')]
    runpy.run_path(tool, run_name='__main__')
"""


def test_mmpretrains_own_tool_runs_our_configs(tmp_path):
    teacher = save_teacher(tmp_path / 'teacher.pth')
    configs = [str(CONFIGS / name) for name in (CAKD, ALONE)]
    work_dirs = [str(tmp_path / name) for name in ('cakd', 'alone')]
    script = MMPRETRAINS_TOOL.format(configs=configs, work_dirs=work_dirs)
    tool = Path(mmpretrain.__file__).parent / '.mim/tools/train.py'
    options = [*SMALL, 'train_cfg.max_epochs=1', f'model.teacher_ckpt={teacher}']
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', script, str(tool), *options],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES=''),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    distilled, alone = (weights(Path(path) / 'epoch_1.pth') for path in work_dirs)
    assert any(key.startswith('architecture.') for key in distilled)
    assert not any(key.startswith('teacher.') for key in distilled)
    assert {f'architecture.{key}' for key in alone} <= distilled.keys()
    for path, loss in zip(work_dirs, ('distill.loss_cakd', 'loss'), strict=True):
        entries = scalars(Path(path))
        assert 0 < entries[0][loss] < math.inf
        assert 0 <= entries[-1][METRIC] <= 100


def test_a_run_says_once_which_keys_nobody_reads(train, tmp_path):
    leaf = tmp_path / 'leaf.py'
    leaf.write_text(
        f'_base_ = {str(CONFIGS / ALONE)!r}\n'
        'default_hookss = dict(logger=dict(interval=1))\n'
        'default_hooks = dict(finite=None, labels=None, timer=None)\n'
    )
    work_dir = train(leaf)
    [log] = work_dir.glob('*/*.log')
    text = log.read_text()
    assert text.count('Nobody reads this key. Write default_hooks if') == 1
    assert 'FiniteLossHook' not in text
    assert 'LabelRangeHook' not in text
    assert 'IterTimerHook' not in text
    assert 'DistillTermsHook' in text


def test_a_training_without_a_step_is_refused(train):
    options = ['train_dataloader.dataset.indices=31', 'train_dataloader.drop_last=True']
    with pytest.raises(ValueError, match=r'`train_dataloader` = .0 batches. *'):
        train(ALONE, options=options)
