"""A run by iterations that is resumed equals the uninterrupted one on two ranks."""

import logging
import os

import torch
from mmengine.hooks import Hook
from ranks import two_ranks
from tiny import digits_config

from cakd_mm.engine import launch


class Watch(Hook):
    """Keeps the images of each step, as they are after augmentation."""

    def __init__(self):
        self.found = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.found.append((runner.iter, torch.stack(list(data_batch['inputs']))))


def train(work_dir, checkpoint=None):
    """Train to the end; return the last checkpoint and the images of each step."""
    cfg = digits_config('vanilla/resnet8_digits.py')
    # Of nine images a pass ends within a step.
    cfg.train_dataloader.dataset.indices = 9
    cfg.train_dataloader.update(batch_size=2, sampler=dict(type='InfiniteSampler'))
    cfg.val_dataloader.dataset.indices = 4
    cfg.train_cfg = dict(type='ResumableIterLoop', max_iters=5, val_interval=2)
    cfg.param_scheduler = dict(type='PolyLR', by_epoch=False, end=5)
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=1, max_keep_ckpts=-1)
    cfg.update(
        launcher='pytorch', work_dir=str(work_dir), experiment_name=work_dir.name
    )
    if checkpoint is not None:
        cfg.update(load_from=str(checkpoint), resume=True)
    launch.adapt_to_device(cfg)
    runner = launch.build_runner(cfg)
    watch = Watch()
    runner.register_hook(watch)
    runner.train()
    return torch.load(work_dir / 'iter_5.pth', weights_only=False), watch.found


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path):
    def work(rank):
        os.environ['LOCAL_RANK'] = str(rank)  # which mmengine reads
        logging.disable()
        whole = train(tmp_path / 'whole')
        return whole, train(tmp_path / 'resumed', tmp_path / 'whole' / 'iter_2.pth')

    (whole, resumed), (_, on_other) = two_ranks(work, tmp_path)
    for part in ('state_dict', 'optimizer'):
        torch.testing.assert_close(resumed[0][part], whole[0][part], rtol=0, atol=0)
    assert [step for step, _ in whole[1]] == [0, 1, 2, 3, 4]
    torch.testing.assert_close(resumed[1], whole[1][2:], rtol=0, atol=0)
    for (_, mine), (_, others) in zip(resumed[1], on_other[1], strict=True):
        assert not torch.equal(mine, others)
