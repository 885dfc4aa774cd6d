"""What is read later is what would have been read at once."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook, RuntimeInfoHook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from tiny import distill_config

from cakd_mm.engine.hooks import DeferredInfoHook, deferred_info_hook

CLIP = dict(max_norm=1.0)


class Unread(Hook):
    """How many steps are unread after each, and when."""

    priority = 'LOWEST'

    def __init__(self):
        self.counts = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        hook = next(h for h in runner.hooks if isinstance(h, DeferredInfoHook))
        self.counts.append(len(hook._steps))


def train(make_runner, tmp_path, mode, checkpoints=None, **options):
    cfg = distill_config(tmp_path, images=32 * 5, epochs=2)
    cfg.default_hooks.logger.interval = 2
    cfg.default_hooks.runtime_info.mode = mode
    if checkpoints:
        cfg.default_hooks.checkpoint.update(
            by_epoch=False, interval=checkpoints, max_keep_ckpts=-1
        )
    cfg.update(options)
    runner = make_runner(cfg, mode)
    unread = Unread()
    runner.register_hook(unread)
    runner.train()
    return runner, unread.counts


def lines(runner):
    (log,) = Path(runner.work_dir).glob('*/vis_data/scalars.json')
    found = [json.loads(line) for line in log.read_text().splitlines()]
    timed = ('time', 'data_time', 'eta', 'memory')
    return [{k: v for k, v in line.items() if k not in timed} for line in found]


def test_logs_and_history_are_the_same(tmp_path, make_runner):
    at_once, counts = train(make_runner, tmp_path, 'auto')
    assert counts == [0] * 10  # a CPU has nothing to wait for
    later, counts = train(make_runner, tmp_path, 'deferred')
    assert counts == [1, 0, 1, 0, 1] * 2
    assert lines(later) == lines(at_once)
    assert len(lines(later)) > 4
    scalars = at_once.message_hub.log_scalars
    assert {'train/loss', 'train/student.loss'} <= set(scalars)
    for name, history in scalars.items():
        if 'time' not in name:
            found = later.message_hub.log_scalars[name]
            for one, other in zip(found.data, history.data, strict=True):
                np.testing.assert_array_equal(one, other, err_msg=name)


def test_a_checkpoint_holds_what_was_unread(tmp_path, make_runner):
    runner, _ = train(make_runner, tmp_path, 'deferred', checkpoints=3)
    checkpoint = torch.load(Path(runner.work_dir) / 'iter_3.pth', weights_only=False)
    saved = checkpoint['message_hub']['log_scalars']['train/loss']
    expected = runner.message_hub.get_scalar('train/loss').data[0]
    np.testing.assert_array_equal(saved.data[0], expected[:3])


def test_numbers_beside_tensors(monkeypatch):
    hook = DeferredInfoHook('deferred')
    hook._deferred = True
    monkeypatch.setattr(deferred_info_hook, 'is_logged', lambda *_: False)
    hook.after_train_iter(None, 0, outputs=dict(loss=torch.tensor(2.0), acc=0.5))
    hook.after_train_iter(None, 1, outputs={})
    hook.after_train_iter(None, 2, outputs=dict(loss=torch.tensor(3.0)))
    read = []

    class Hub:
        def update_scalar(self, name, value):
            read.append((name, value))

    class Runner:
        message_hub = Hub()

    hook.after_train_epoch(Runner)
    assert read == [('train/loss', 2.0), ('train/acc', 0.5), ('train/loss', 3.0)]
    hook.after_train_epoch(Runner)
    assert len(read) == 3


def test_norms_of_all_optimizers_are_read_in_a_second_training_too(monkeypatch):
    nets = dict(a=torch.nn.Linear(2, 1), b=torch.nn.Linear(2, 1))
    parts = {
        name: OptimWrapper(torch.optim.SGD(net.parameters(), 0.1), clip_grad=CLIP)
        for name, net in nets.items()
    }
    runner = SimpleNamespace(optim_wrapper=OptimWrapperDict(**parts), model=None)
    monkeypatch.setattr(RuntimeInfoHook, 'before_train', lambda *_: None)
    monkeypatch.setattr(deferred_info_hook, 'is_deferred', lambda *_: True)
    monkeypatch.setattr(deferred_info_hook, 'is_logged', lambda *_: True)
    read = []
    runner.message_hub = SimpleNamespace(update_scalar=lambda *x: read.append(x))
    hook, images = DeferredInfoHook('deferred'), torch.tensor([[3.0, 4.0]])
    for _ in range(2):
        hook.before_train(runner)
        for name, part in parts.items():
            part.update_params(nets[name](images).sum())
        hook.after_train_iter(runner, 0, outputs={})
    # The gradient of the weights is the image, and that of the bias is 1.
    assert read == [('train/grad_norm', pytest.approx(26**0.5))] * 4


def test_an_unknown_mode_is_named():
    with pytest.raises(ValueError, match='runtime_info.mode'):
        DeferredInfoHook('later')


def test_an_optimizer_wrapper_of_another_library(monkeypatch):
    """mmengine's base class, which that of DeepSpeed has, knows of no clipping."""
    monkeypatch.setattr(deferred_info_hook.RuntimeInfoHook, 'before_train', nothing)
    runner = SimpleNamespace(model=torch.nn.Linear(1, 1), optim_wrapper=object())
    hook = DeferredInfoHook('deferred')
    hook.before_train(runner)
    assert hook._deferred


def nothing(*_):
    """Do nothing in place of a hook that wants a whole Runner."""
