"""A resumed run equals the uninterrupted one on three ranks, too.

From three ranks on the last bit of a gradient depends on its place in a bucket of
PyTorch's wrapper, which makes other buckets after its first step.
"""

import logging
import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from ranks import on_ranks
from tiny import distill_config

from cakd_mm.engine import launch

STEPS = 4  # of an epoch, of two epochs
LAST = f'iter_{2 * STEPS}.pth'
# Where a run goes on: within an epoch, and at the end of one, where mmengine saves anew
# because the score is the best one.
STARTS = ('iter_3', 'iter_4')


def config(folder: Path) -> Config:
    """A distillation with several buckets."""
    cfg = distill_config(folder, images=3 * 4 * STEPS, train_dataloader__batch_size=4)
    cfg.update(launcher='pytorch', model_wrapper_cfg=dict(bucket_cap_mb=0.05))
    cfg.default_hooks.checkpoint.update(
        by_epoch=False, interval=3, max_keep_ckpts=-1, save_best='auto'
    )
    return cfg


def train(cfg: Config, work_dir: Path, checkpoint: Path | None = None) -> dict:
    """Train to the end, from ``checkpoint`` if given; return the last checkpoint."""
    cfg = cfg.copy()
    cfg.update(work_dir=str(work_dir), experiment_name=work_dir.name)
    if checkpoint is not None:
        cfg.update(load_from=str(checkpoint), resume=True)
    launch.adapt_to_device(cfg)
    launch.build_runner(cfg).train()
    return torch.load(work_dir / LAST, weights_only=False)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    cfg = config(folder)

    def work(rank):
        os.environ['LOCAL_RANK'] = str(rank)  # which mmengine reads
        logging.disable()
        found = dict(whole=train(cfg, folder / 'whole'))
        for start in STARTS:
            checkpoint = folder / 'whole' / f'{start}.pth'
            found[start] = train(cfg, folder / start, checkpoint)
        return found

    return on_ranks(3, work, folder)[0]


@pytest.mark.parametrize('start', STARTS)
def test_a_resumed_run_equals_the_uninterrupted_one(runs, start):
    resumed, whole = runs[start], runs['whole']
    for part in ('state_dict', 'optimizer'):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)
