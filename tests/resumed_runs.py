"""Runs that are interrupted and resumed, and what has to be equal then."""

import copy
import uuid

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tiny import distill_config

from cakd_mm.datasets import Digits


def finish(cfg, work_dir, by_epoch=False, workers=0, checkpoint=None, hooks=()):
    """Train to the end, from ``checkpoint`` if given."""
    torch.set_num_threads(1)
    cfg = copy.deepcopy(cfg)
    cfg.default_hooks.pop('extract')
    cfg.default_hooks.checkpoint.update(
        by_epoch=by_epoch, interval=1, max_keep_ckpts=-1
    )
    cfg.train_dataloader.update(num_workers=workers, persistent_workers=workers > 0)
    cfg.update(
        launcher='none', work_dir=str(work_dir), experiment_name=uuid.uuid4().hex
    )
    if checkpoint is not None:
        cfg.update(load_from=str(checkpoint), resume=True)
    runner = Runner.from_cfg(cfg)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    if runner.train_dataloader._iterator is not None:
        # Left to the garbage collector they may have to time out: ten seconds.
        runner.train_dataloader._iterator._shutdown_workers()
    return runner


def everything_random(folder, **options):
    """A distillation with crops, mixup and dropout, two kinds of schedule."""
    cfg = distill_config(folder, **options)
    cfg.model.architecture.head = dict(
        type='StackedLinearClsHead',
        num_classes=10,
        in_channels=64,
        mid_channels=[32],
        dropout_rate=0.5,
        loss=dict(type='CrossEntropyLoss', use_soft=True),
    )
    cfg.data_preprocessor.batch_augments = dict(augments=dict(type='Mixup', alpha=0.8))
    cfg.param_scheduler = [
        dict(type='MultiStepLR', by_epoch=True, milestones=[1], gamma=0.1),
        dict(type='LinearLR', by_epoch=False, start_factor=0.2, end=5),
    ]
    return cfg


def tensors(tree, path=''):
    """Flatten nested dicts and lists to ``{path: leaf}``."""
    if isinstance(tree, (dict, list, tuple)):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {k: v for n, x in items for k, v in tensors(x, f'{path}/{n}').items()}
    return {path: tree}


def state(runner):
    """All that training has made: weights, momentum, schedules, logged values."""
    logged = {
        name: history.data[0].tolist()
        for name, history in runner.message_hub.log_scalars.items()
        if not name.startswith('val/') and 'time' not in name
    }
    assert len(logged['train/loss']) == runner.iter
    return tensors(
        dict(
            weights=runner.model.state_dict(),
            optimizer=runner.optim_wrapper.state_dict(),
            schedulers=[s.state_dict() for s in runner.param_schedulers],
            logged=logged,
            scores={
                name: history.current()
                for name, history in runner.message_hub.log_scalars.items()
                if name.startswith('val/') and 'time' not in name
            },
            place=[runner.epoch, runner.iter],
        )
    )


def differences(left, right):
    assert left.keys() == right.keys()
    return [name for name, value in left.items() if not same(value, right[name])]


def same(left, right):
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    return left == right


def note_loaded(monkeypatch):
    """Indices of the training images loaded, in order."""
    indices, getitem = [], Digits.__getitem__

    def get(self, index):
        if self.split == 'train':
            indices.append(index)
        return getitem(self, index)

    monkeypatch.setattr(Digits, '__getitem__', get)
    return indices


class Scores(Hook):
    """Keeps each validation's (epoch, top-1), or (iter, top-1)."""

    def __init__(self, count='epoch'):
        self.count = count
        self.found = []

    def after_val_epoch(self, runner, metrics=None):
        place = getattr(runner, self.count)
        self.found.append((place, metrics['accuracy/top1']))
