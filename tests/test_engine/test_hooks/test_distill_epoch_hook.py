"""Whole runs in which a loss follows the epoch."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop
from mmengine.runner import IterBasedTrainLoop as IterLoop
from tiny import digits_config, distill_config, save_teacher
from torch import nn

from cakd_mm.engine.hooks import DistillEpochHook, counting
from cakd_mm.models.losses.functional.ctkd import reversal_factor

TERMS = ('reversal', 'temperature')
THETA = 'distiller.distill_losses.loss_ctkd.theta'


class Watch(Hook):
    """Notes what the loss is made with in each step."""

    def before_train(self, runner):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        loss = runner.model.distiller.distill_losses.loss_ctkd
        terms = {name: value.item() for name, value in loss.terms.items()}
        value = outputs['distill.loss_ctkd'].item()
        self.seen.append((runner.epoch, *map(terms.get, TERMS), value))


def with_ctkd(cfg, hook=True, **options):
    """Put CTKD in the place of CAKD."""
    distiller = cfg.model.distiller
    mapping = copy.deepcopy(distiller.loss_forward_mappings.loss_cakd)
    del mapping['gt_labels']
    loss = dict(type='CTKDLoss', epochs=4, loss_weight=0.9, **options)
    distiller.distill_losses = dict(loss_ctkd=loss)
    distiller.loss_forward_mappings = dict(loss_ctkd=mapping)
    if not hook:
        del cfg.default_hooks.distill_epoch
    return cfg


@pytest.fixture
def start(tmp_path, make_runner):
    """Build a run of two steps an epoch."""

    def build(work_dir='run', ctkd=None, hook=True, **options):
        cfg = distill_config(tmp_path, images=64, epochs=4, **options)
        cfg.default_hooks.pop('extract')
        cfg.default_hooks.logger.interval = 1
        cfg.default_hooks.checkpoint.max_keep_ckpts = -1
        runner = make_runner(with_ctkd(cfg, hook, **(ctkd or {})), work_dir)
        runner.watch = Watch()
        runner.register_hook(runner.watch)
        return runner

    return build


def load(runner, name):
    path = Path(runner.work_dir) / name
    return torch.load(path, map_location='cpu', weights_only=False)


@pytest.mark.parametrize('kind', ['global', 'instance'])
def test_lambda_follows_the_epoch_and_theta_is_trained(start, kind):
    # The number of classes comes from the nets.
    runner = start(ctkd=dict(instance_wise=kind == 'instance'))
    runner.train()
    expected = [reversal_factor(e + 1, 4) for e in range(4) for _ in range(2)]
    assert [epoch for epoch, *_ in runner.watch.seen] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [factor for _, factor, *_ in runner.watch.seen] == pytest.approx(expected)
    temperatures = [t for *_, t, _ in runner.watch.seen]
    assert temperatures[0] == pytest.approx(15.6211716)
    assert len(set(temperatures)) == 8
    [file] = Path(runner.work_dir).glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in file.open()]
    lines = [line for line in lines if 'loss' in line]
    assert [line['ctkd/reversal'] for line in lines] == pytest.approx(expected)
    assert [line['ctkd/temperature'] for line in lines] == pytest.approx(temperatures)
    saved = load(runner, 'epoch_4.pth')
    assert (THETA in saved['state_dict']) == (kind == 'global')
    own = sum(p.numel() for p in runner.model.distiller.parameters())
    trained = [p for g in runner.optim_wrapper.param_groups for p in g['params']]
    assert all(
        any(p is q for q in trained) for p in runner.model.distiller.parameters()
    )
    assert own == (1 if kind == 'global' else 20 * 128 + 128 + 128 + 1)
    # Without a forward of its own, the student leaves the distiller behind.
    assert not [name for name in runner.model.student.state_dict() if 'theta' in name]


def test_a_run_resumed_within_an_epoch_equals_the_uninterrupted(start):
    options = dict(default_hooks__checkpoint__by_epoch=False)
    whole = start('whole', **options)
    whole.train()
    path = Path(whole.work_dir) / 'iter_3.pth'
    resumed = start('resumed', resume=True, load_from=str(path), **options)
    resumed.train()
    assert resumed.watch.seen == whole.watch.seen[3:]
    expected, found = (
        load(run, 'iter_8.pth')['state_dict'] for run in (whole, resumed)
    )
    assert expected[THETA] != 1
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_without_the_hook_the_run_stops_at_once(start):
    runner = start(hook=False)
    with pytest.raises(ValueError, match=r'`default_hooks\.distill_epoch`'):
        runner.train()
    assert runner.iter == 0


@pytest.fixture
def by_iterations(tmp_path, make_runner):
    """Build a run of CTKD by iterations: three of them see each image once."""

    def build(work_dir='run', length=None, **options):
        checkpoint = str(save_teacher(tmp_path / 'teacher.pth'))
        name = 'cakd/demo_digits.py'
        cfg = digits_config(name, model__teacher_ckpt=checkpoint, **options)
        cfg.train_cfg = dict(type='ResumableIterLoop', max_iters=5, val_interval=10)
        cfg.param_scheduler = None
        cfg.val_dataloader.dataset.indices = 10
        cfg.default_hooks.pop('extract')
        cfg.default_hooks.distill_epoch.iters_per_epoch = length
        cfg.default_hooks.checkpoint.update(
            by_epoch=False, interval=1, max_keep_ckpts=-1
        )
        runner = make_runner(with_ctkd(cfg), work_dir)
        runner.watch = Watch()
        runner.register_hook(runner.watch)
        return runner

    return build


def test_iterations_make_up_epochs_in_a_resumed_run_too(by_iterations):
    whole = by_iterations('whole', 2)
    whole.train()
    expected = [reversal_factor(e + 1, 4) for e in (0, 0, 1, 1, 2)]
    assert [factor for _, factor, *_ in whole.watch.seen] == pytest.approx(expected)
    for done in (2, 3):  # where an epoch begins, and within one
        path = str(Path(whole.work_dir) / f'iter_{done}.pth')
        rest = by_iterations(f'from {done}', 2, resume=True, load_from=path)
        rest.train()
        assert rest.watch.seen == whole.watch.seen[done:]


def test_without_the_length_of_an_epoch_the_run_stops_at_once(by_iterations):
    runner = by_iterations()
    key = r'`default_hooks\.distill_epoch\.iters_per_epoch` = None: '
    match = f'{key}ResumableIterLoop counts no epochs, and CTKDLoss changes with '
    match += 'them.*iters_per_epoch=3, say.*96 images, 32 a step, takes 3'
    with pytest.raises(ValueError, match=match):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize(
    ('images', 'batch', 'ranks', 'steps'),
    [(96, 32, 1, 3), (97, 32, 1, 4), (96, 16, 2, 3), (5, 32, 1, 1), (None, 4, 1, 1000)],
)
def test_the_length_of_a_pass_that_is_proposed(
    monkeypatch, images, batch, ranks, steps
):
    monkeypatch.setattr(counting, 'get_world_size', lambda: ranks)
    data = iter(()) if images is None else range(images)
    batches = SimpleNamespace(batch_size=batch)
    loader = SimpleNamespace(dataset=data, batch_sampler=batches)
    found, text = counting.about_a_pass(SimpleNamespace(train_dataloader=loader))
    assert found == steps
    assert text.endswith(f'takes {steps:,}.') == (images is not None)


@pytest.mark.parametrize('length', [0, 2.0, True, '3'])
def test_what_is_no_number_of_iterations(length):
    with pytest.raises(ValueError, match=f'iters_per_epoch` = {length!r}: .*1 or more'):
        DistillEpochHook(iters_per_epoch=length)


class Follower(nn.Module):
    epoch = None

    def set_epoch(self, epoch):
        self.epoch = epoch


def a_runner(model, loop=EpochBasedTrainLoop):
    loop = loop.__new__(loop)
    return SimpleNamespace(model=model, epoch=3, train_loop=loop)


def test_every_loss_that_asks_is_told_in_a_wrapped_model_too():
    from mmengine.model import MMDistributedDataParallel

    inner = nn.Module()
    inner.distiller = nn.Module()
    inner.distiller.distill_losses = nn.ModuleDict(
        dict(a=Follower(), b=nn.Identity(), c=Follower())
    )
    wrapped = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = inner
    for model in (inner, wrapped):
        hook, runner = DistillEpochHook(), a_runner(model)
        hook.before_train(runner)
        runner.epoch += 1
        hook.before_train_epoch(runner)
        for name in 'ac':
            assert inner.distiller.distill_losses[name].epoch == 4
            inner.distiller.distill_losses[name].epoch = None


@pytest.mark.parametrize('kind', ['plain', 'other-losses'])
def test_other_models_are_left_alone_in_any_loop(kind):
    model = nn.Module()
    if kind == 'other-losses':
        model.distiller = nn.Module()
        model.distiller.distill_losses = nn.ModuleDict(dict(a=nn.Identity()))
    hook, runner = DistillEpochHook(), a_runner(model, IterLoop)
    hook.before_train(runner)
    hook.before_train_epoch(runner)


def test_a_loop_that_counts_epochs_is_not_told_how_long_they_are():
    model = nn.Module()
    model.distiller = nn.Module()
    model.distiller.distill_losses = nn.ModuleDict(dict(a=Follower()))
    match = r'iters_per_epoch` = 5: EpochBasedTrainLoop counts epochs itself'
    with pytest.raises(ValueError, match=match):
        DistillEpochHook(iters_per_epoch=5).before_train(a_runner(model))


def test_each_epoch_of_iterations_is_told_once():
    model = nn.Module()
    model.distiller = nn.Module()
    told = []
    model.distiller.distill_losses = nn.ModuleDict(dict(a=Follower()))
    model.distiller.distill_losses['a'].set_epoch = told.append
    hook, runner = DistillEpochHook(iters_per_epoch=3), a_runner(model, IterLoop)
    for start, expected in ((0, [0, 1, 2]), (3, [1, 2]), (5, [1, 2])):
        told.clear()
        runner.iter = start
        hook.before_train(runner)
        hook.before_train_epoch(runner)
        assert told == expected[:1]  # before a validation that a run begins with
        for runner.iter in range(start, 8):
            hook.before_train_iter(runner, 0)
        assert told == expected
