"""Ranks with different configs are refused, except for what nodes have of their own."""

import os
from functools import partial

import numpy as np
import pytest
from mmengine.config import Config
from ranks import two_ranks
from tiny import digits_config
from torch.optim import SGD

from cakd_mm.utils.same_config import require_same_config

HOST = os.uname().nodename
REMEDY = 'Give every node the same config and the same --cfg-options.'
HOOK = 'default_hooks.checkpoint'
LOSS = 'model.distiller.distill_losses.loss_cakd'
# What the second rank writes, the key that is named, and what the ranks have there.
DIFFER = [
    ({'optim_wrapper.optimizer.lr': 0.02}, 'optim_wrapper.optimizer.lr', '0.05; 0.02'),
    (
        {'optim_wrapper.optimizer.weight_decay': 0.1},
        'optim_wrapper.optimizer.weight_decay',
        '0.0005; 0.1',
    ),
    ({f'{LOSS}.tau': 9.0}, f'{LOSS}.tau', '4.0; 9.0'),
    ({f'{LOSS}.loss_weight': 0.0}, f'{LOSS}.loss_weight', 'nothing; 0.0'),
    ({'train_cfg.max_epochs': 3}, 'train_cfg.max_epochs', '2; 3'),
    (
        {'optim_wrapper.accumulative_counts': 3},
        'optim_wrapper.accumulative_counts',
        'nothing; 3',
    ),
    ({f'{HOOK}.by_epoch': False}, f'{HOOK}.by_epoch', 'nothing; False'),
    ({'train_cfg.val_interval': 2}, 'train_cfg.val_interval', '1; 2'),
    (
        {'val_cfg.type': 'StudentTeacherValLoop'},
        'val_cfg',
        '{}; {...}',
    ),
    ({'val_cfg': None}, 'val_cfg', '{}; None'),
    (
        {'custom_hooks': [dict(type='EMAHook')]},
        'custom_hooks',
        'None; {...}',
    ),
    ({'train_dataloader.batch_size': 8}, 'train_dataloader.batch_size', '32; 8'),
]


def rank_config(changes: dict) -> Config:
    cfg = digits_config('cakd/demo_digits.py')
    if changes.pop('val_cfg', ...) is None:
        cfg.val_cfg = None
    cfg.merge_from_dict(changes)
    return cfg


def own_of(rank: int) -> Config:
    """Return what nodes may have of their own, and values that have no plain text."""
    cfg = rank_config(
        {
            'work_dir': f'/disk{rank}/run',
            'load_from': f'/disk{rank}/x.pth',
            'model.teacher_ckpt': [f'/disk{rank}/t.pth'],
            'model.architecture.init_cfg': dict(checkpoint=f'/disk{rank}/s.pth'),
            'train_dataloader.num_workers': rank,
            'train_dataloader.persistent_workers': rank == 1,
            'train_dataloader.pin_memory': rank == 1,
            'train_dataloader.dataset.data_root': f'/disk{rank}',
            'train_dataloader.dataset.data_prefix': dict(img_path=f'part{rank}'),
            'train_dataloader.dataset.ann_file': f'{rank}.txt',
            'train_dataloader.dataset.cache_dir': f'/disk{rank}',
            'val_dataloader.batch_size': 8 + rank,
            'model_wrapper_cfg': dict(device_ids=[rank]),
            'env_cfg.dist_cfg.timeout': 60 + rank,
            'log_level': 'INFO' if rank else 'DEBUG',
            'visualizer.name': f'node{rank}',
            'node': rank,
            'launcher_local_rank': rank,
        }
    )
    # Set orders, addresses and kinds of classes differ from process to process.
    cfg.model.labels = {f'class{i}' for i in (range(9) if rank else range(8, -1, -1))}
    cfg.model.means, cfg.model.act = np.zeros(3), partial(print, end='')
    cfg.model.solver, cfg.model.step = SGD, [lambda x: x for _ in range(2)][rank]
    return cfg


def test_the_first_key_that_differs_is_named_on_all_ranks(tmp_path):
    def work(rank: int) -> list[str]:
        found = []
        for changes, *_ in DIFFER:
            cfg = rank_config(dict(changes) if rank else {})
            with pytest.raises(ValueError) as caught:
                require_same_config(cfg)
            found.append(str(caught.value))
        require_same_config(own_of(rank))
        return found

    for found in two_ranks(work, tmp_path):
        for text, (_, key, values) in zip(found, DIFFER, strict=True):
            first, second = values.split('; ')
            assert text.startswith(f'`{key}` = ')
            assert text.endswith(
                f': The ranks have different configs: rank 0 on {HOST}: {first}; '
                f'rank 1 on {HOST}: {second}. {REMEDY}'
            )
