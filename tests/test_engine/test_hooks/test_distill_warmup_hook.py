import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from tiny import digits_config, distill_config, save_teacher
from torch import nn

from cakd_mm.engine.hooks import DistillWarmupHook

KEY = r'`default_hooks\.warmup'


class Watch(Hook):
    """Notes what each step's loss is multiplied by."""

    def before_train(self, runner):
        self.factors, self.raw = [], []
        module = runner.model.distiller.distill_losses.loss_cakd
        module.register_forward_hook(lambda *call: self.raw.append(call[-1].item()))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        weighted = outputs['distill.loss_cakd'].item()
        self.factors.append((runner.epoch, weighted / self.raw[-1]))


@pytest.fixture
def start(tmp_path, make_runner):
    """Build a run of two steps an epoch that is warmed up."""

    def build(warm_epochs, work_dir='run', **options):
        options |= dict(train_dataloader__batch_size=8)
        cfg = distill_config(tmp_path, images=16, **options)
        cfg.default_hooks.pop('extract')
        cfg.default_hooks.logger.interval = 1
        cfg.default_hooks.checkpoint.max_keep_ckpts = -1
        cfg.default_hooks.warmup = dict(type='DistillWarmupHook', epochs=warm_epochs)
        runner = make_runner(cfg, work_dir)
        runner.watch = Watch()
        runner.register_hook(runner.watch)
        return runner

    return build


def logged(runner):
    [file] = Path(runner.work_dir).glob('*/vis_data/scalars.json')
    entries = [json.loads(line) for line in file.open()]
    return [(e['epoch'], e['warmup']) for e in entries if 'loss' in e]


def test_the_factor_of_every_epoch(start):
    runner = start(3, epochs=4)
    runner.train()
    expected = [1 / 3, 2 / 3, 1, 1]
    steps = [(epoch, expected[epoch]) for epoch in range(4) for _ in range(2)]
    assert [epoch for epoch, _ in runner.watch.factors] == [e for e, _ in steps]
    seen = [factor for _, factor in runner.watch.factors]
    assert seen == pytest.approx([factor for _, factor in steps], rel=1e-5)
    # mmengine counts epochs from 1 in its log.
    assert [epoch for epoch, _ in logged(runner)] == [e + 1 for e, _ in steps]
    shown = [factor for _, factor in logged(runner)]
    assert shown == pytest.approx([factor for _, factor in steps])


def test_a_run_resumed_within_an_epoch_goes_on_with_the_right_factor(start):
    expected = [(1, 0.5), (2, 0.75), (2, 0.75), (3, 1), (3, 1)]
    options = dict(epochs=4, default_hooks__checkpoint__by_epoch=False)
    whole = start(4, 'whole', **options)
    whole.train()
    path = Path(whole.work_dir) / 'iter_3.pth'
    resumed = start(4, 'resumed', resume=True, load_from=str(path), **options)
    resumed.train()
    assert [epoch for epoch, _ in resumed.watch.factors] == [e for e, _ in expected]
    factors = [factor for _, factor in resumed.watch.factors]
    assert factors == pytest.approx([factor for _, factor in expected], rel=1e-5)
    assert [factor for _, factor in logged(resumed)] == pytest.approx(
        [factor for _, factor in expected]
    )
    assert resumed.watch.raw == whole.watch.raw[-len(expected) :]


def test_a_wrapped_model_is_warmed_up_inside():
    """As under DDP."""
    from mmengine.model import MMDistributedDataParallel

    wrapped = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = nn.Module()
    wrapped.module.distiller = SimpleNamespace(warmup=1.0)
    hub = MessageHub.get_instance('warmup')
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    runner = SimpleNamespace(model=wrapped, epoch=0, message_hub=hub, train_loop=loop)
    hook = DistillWarmupHook(epochs=4)
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    assert wrapped.module.distiller.warmup == 0.25
    assert hub.get_scalar('train/warmup').current() == 0.25


@pytest.mark.parametrize('name', ['epochs', 'iters'])
@pytest.mark.parametrize('length', [0, 2.0, True, '3'])
def test_what_is_no_number_of_epochs_or_iterations(name, length):
    what = 'epochs' if name == 'epochs' else 'iterations'
    match = KEY + rf'\.{name}` = {length!r}: It counts {what}\..*1 or more'
    with pytest.raises(ValueError, match=match):
        DistillWarmupHook(**{name: length})


@pytest.mark.parametrize('given', [{}, dict(epochs=2, iters=5)])
def test_it_counts_either_epochs_or_iterations(given):
    match = KEY + r'` = .*either epochs or iterations.*epochs=20, say, or iters=20000'
    with pytest.raises(ValueError, match=match):
        DistillWarmupHook(**given)


@pytest.mark.parametrize('loop', [EpochBasedTrainLoop, IterBasedTrainLoop])
def test_the_factor_of_every_iteration(loop):
    """It follows from the iteration alone, as in a run that is resumed."""
    distiller = SimpleNamespace(warmup=1.0)
    runner = SimpleNamespace(
        model=SimpleNamespace(distiller=distiller),
        epoch=1,
        message_hub=MessageHub.get_instance(f'warmup by {loop.__name__}'),
        train_loop=loop.__new__(loop),
    )
    for start in (0, 2):
        hook = DistillWarmupHook(iters=4)
        hook.before_train(runner)
        for runner.iter in range(start, 6):
            hook.before_train_iter(runner, 0)
            factor = {0: 0.25, 1: 0.5, 2: 0.75}.get(runner.iter, 1.0)
            assert distiller.warmup == factor
            assert runner.message_hub.get_scalar('train/warmup').current() == factor


@pytest.mark.parametrize('kind', ['plain', 'stock'])
def test_a_model_that_cannot_be_warmed_up(tmp_path, make_runner, kind):
    if kind == 'plain':
        cfg, named = digits_config('vanilla/resnet8_digits.py'), 'NoneType'
    else:
        cfg, named = distill_config(tmp_path), 'ConfigurableDistiller'
        cfg = copy.deepcopy(cfg)
        cfg.model.distiller.type = 'mmrazor.ConfigurableDistiller'
    cfg.default_hooks.warmup = dict(type='DistillWarmupHook', epochs=3)
    runner = make_runner(cfg)
    with pytest.raises(ValueError, match=KEY + rf'`.*{named} has none.*StrictDistill'):
        runner.train()
    assert runner.iter == 0


def test_a_loop_that_counts_no_epochs_is_refused(tmp_path, make_runner):
    checkpoint = str(save_teacher(tmp_path / 'teacher.pth'))
    cfg = digits_config('cakd/demo_digits.py', model__teacher_ckpt=checkpoint)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=10)
    cfg.default_hooks.warmup = dict(type='DistillWarmupHook', epochs=2)
    # Of 96 images 32 are a step.
    match = (
        r'epochs` = 2: IterBasedTrainLoop counts no epochs.*iters=6 .*96 images, 32 '
    )
    with pytest.raises(ValueError, match=match):
        make_runner(cfg).train()
