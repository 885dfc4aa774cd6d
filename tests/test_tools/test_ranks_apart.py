"""The tools on two nodes that share no disk: both train the same, or both stop."""

import os
from pathlib import Path
from shutil import copy

import pytest
import torch
from ranks import two_ranks
from tiny import CONFIGS, algorithm, digits_config, save_teacher
from tools_inside import run_tool
from torch import Tensor

HOST = os.uname().nodename
DEMO = CONFIGS / 'cakd/demo_digits.py'
SMALL = (
    'train_dataloader.dataset.indices=4',
    'train_dataloader.batch_size=2',
    'val_dataloader.dataset.indices=4',
    'test_dataloader.dataset.indices=4',
    'train_cfg.max_epochs=1',
    'optim_wrapper.optimizer.lr=1e-30',
)


def outcome(name: str, *words: str, options: tuple[str, ...] = ()) -> str:
    """Run a tool in this process, as a launcher does; return its error."""
    common = ('--work-dir', 'out', '--launcher', 'pytorch')
    options = ('--cfg-options', *SMALL, 'model.teacher_ckpt=teacher.pth', *options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('LOCAL_RANK', str(torch.distributed.get_rank()))
        try:
            run_tool(patch, name, DEMO, *words, *common, *options)
        except Exception as error:
            return f'{type(error).__name__}: {error}'
    return ''


def student(path: Path) -> dict[str, Tensor]:
    weights = torch.load(path, weights_only=False)['state_dict']
    return {k: v for k, v in weights.items() if k.endswith('weight')}


def test_both_nodes_train_the_same_or_both_stop(tmp_path):
    """They also score together, for which mmengine wants a folder in common."""
    teachers = [save_teacher(tmp_path / f'{seed}.pth', seed) for seed in range(2)]
    model = algorithm(digits_config(DEMO, model__teacher_ckpt=str(teachers[0])))
    start = tmp_path / 'start.pth'
    torch.save(dict(meta={}, state_dict=model.state_dict()), start)

    def work(rank: int) -> dict[str, str]:
        here = tmp_path / f'node{rank}'
        here.mkdir()
        os.chdir(here)
        found = {}
        if rank == 0:
            copy(start, 'start.pth')
            copy(teachers[0], 'teacher.pth')
        found['config'] = outcome('train.py', options=('nobody.reads=1',)[:rank])
        found['teacher'] = outcome('train.py')
        copy(teachers[rank], 'teacher.pth')
        found['other teacher'] = outcome('train.py')
        copy(teachers[0], 'teacher.pth')
        found['load_from'] = outcome('train.py', options=('load_from=start.pth',))
        found['resume'] = outcome('train.py', '--resume')
        found['checkpoint'] = outcome('test.py', 'out/epoch_1.pth')
        weights = torch.load(start, weights_only=False)['state_dict']
        weights['architecture.head.fc.bias'] += rank
        torch.save(dict(meta={}, state_dict=weights), 'other.pth')
        found['other checkpoint'] = outcome('test.py', 'other.pth')
        return found

    ranks = two_ranks(work, tmp_path)
    for rank, found in enumerate(ranks):
        assert found['load_from'] == ''
        first, second = (tmp_path / f'node{x}/out/epoch_1.pth' for x in range(2))
        both = f'rank 0 on {HOST}: {first}; rank 1 on {HOST}: no file {second}. '
        assert "`--resume` = 'out/epoch_1.pth': The ranks do not " in found['resume']
        assert both in found['resume']
        assert 'The ranks have different teachers' in found['other teacher']
        text = "ValueError: `checkpoint` = 'other.pth': The ranks have not loaded the "
        assert found['other checkpoint'].startswith(f'{text}same: rank 0 on {HOST}: ')
        logs = (tmp_path / f'node{rank}').glob('*/*/*.log')
        text = ''.join(log.read_text() for log in logs)
        assert f'Rank {rank} of 2 on {HOST} ended with an error' in text
        assert found['teacher'] in text
    first, second = ranks
    for name, text in (
        ('config', '`--cfg-options nobody.reads` = 1'),
        ('teacher', "`model.teacher_ckpt` = 'teacher.pth': There is no such file"),
        ('checkpoint', "`checkpoint` = 'out/epoch_1.pth': There is no such file"),
    ):
        assert text in second[name]
        told = f'OtherRankError: Another rank has failed: rank 1 on {HOST}: '
        assert first[name] == f'{told}{second[name]}'
    before, after = (student(x) for x in (start, tmp_path / 'node0/out/epoch_1.pth'))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
