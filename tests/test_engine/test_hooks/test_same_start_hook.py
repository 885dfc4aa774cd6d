"""All ranks start from the same weights and teacher, or all stop.

Each rank of these tests has a work dir of its own, as on nodes that share no disk.
"""

import os
import uuid
from pathlib import Path
from shutil import copy

import torch
from mmengine.runner import Runner
from ranks import two_ranks
from tiny import distill_config, save_teacher

from cakd_mm.engine import launch
from cakd_mm.utils.checkpoint import fingerprint


def start(folder: Path, **options) -> str | Runner:
    """Train one epoch of one step; return the error, or else the runner."""
    rank = torch.distributed.get_rank()
    os.environ['LOCAL_RANK'] = str(rank)
    options.setdefault('train_cfg__max_epochs', 1)
    teacher = folder / f'teacher{"_" * rank}.pth'
    options.setdefault('model__teacher_ckpt', str(teacher))
    cfg = distill_config(folder, images=8, **options)
    cfg.work_dir, cfg.launcher = str(folder / f'node{rank}'), 'pytorch'
    cfg.experiment_name = uuid.uuid4().hex
    del cfg.default_hooks['extract']
    launch.adapt_to_device(cfg)
    runner = Runner.from_cfg(cfg)
    try:
        runner.train()
    except ValueError as error:
        return str(error)
    return runner


def state(runner: Runner) -> tuple[int, bytes]:
    """Return iteration and hash of the weights."""
    weights = fingerprint(runner.model.module.state_dict())
    return runner.iter, bytes(weights.tolist())


def test_nodes_without_a_shared_disk(tmp_path):
    host = os.uname().nodename
    for name, seed in (('teacher', 0), ('teacher_', 0), ('other', 1)):
        save_teacher(tmp_path / f'{name}.pth', seed)

    def work(rank: int) -> dict:
        found = {}
        name = ('teacher', 'other')[rank]
        teacher = dict(model__teacher_ckpt=str(tmp_path / f'{name}.pth'))
        found['teachers'] = start(tmp_path, **teacher)
        found['scratch'] = state(start(tmp_path))
        found['one'] = start(tmp_path, resume=True)
        torch.distributed.barrier()
        here, there = (tmp_path / f'node{x}' for x in range(2))
        last = here / 'epoch_1.pth'
        if rank == 1:
            weights = torch.load(last, weights_only=False)
            weights['state_dict']['architecture.head.fc.bias'][0] += 1
            with (there / last.name).open('wb') as file:
                torch.save(weights, file)
            (there / 'last_checkpoint').write_text(str(there / last.name))
        found['changed'] = start(tmp_path, resume=True)
        log = max((tmp_path / f'node{rank}').glob('*/*.log'))
        found['log'] = log.read_text()
        if rank == 1:
            copy(last, there)
        found['same'] = state(start(tmp_path, resume=True))
        # Of the second node's file the first has nothing, and is sent the weights.
        path = str(tmp_path / f'node{rank}' / 'sent.pth')
        if rank == 1:
            copy(last, path)
        options = dict(load_from=path, optim_wrapper__optimizer__lr=1e-30)
        found['sent'] = state(start(tmp_path, **options))
        found['left'] = [*tmp_path.glob('tmp*')]
        return found

    ranks = two_ranks(work, tmp_path)
    for rank, found in enumerate(ranks):
        for key, value in found.items():
            print(rank, key, value if key not in ('log',) else value[-3000:])
