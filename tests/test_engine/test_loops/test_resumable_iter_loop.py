import copy
import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import IterBasedTrainLoop, loops
from mmengine.runner.base_loop import BaseLoop
from resumed_runs import (
    Scores,
    differences,
    everything_random,
    finish,
    note_loaded,
    state,
)
from tiny import digits_config, distill_config
from torch.utils.data import DataLoader

from cakd_mm.compat import without_workers
from cakd_mm.datasets import Digits
from cakd_mm.engine.launch import check_own_arguments
from cakd_mm.engine.loops import ResumableIterLoop, resumable_iter_loop

STEPS = 7
BATCH = 16
IMAGES = 40  # so that a batch of an endless sampler belongs to two passes


def by_iterations(cfg, sampler='InfiniteSampler', **loop):
    """Let a config train STEPS iterations, of which the third and sixth are scored."""
    settings = dict(type='ResumableIterLoop', max_iters=STEPS, val_interval=3)
    cfg.train_cfg = {**settings, **loop}
    cfg.train_dataloader.update(batch_size=BATCH, sampler=dict(type=sampler))
    cfg.train_dataloader.dataset.indices = IMAGES
    cfg.val_dataloader.dataset.indices = 70
    cfg.param_scheduler = dict(type='PolyLR', by_epoch=False, power=0.9, end=STEPS)
    cfg.default_hooks.checkpoint.by_epoch = False
    return cfg


def plain(sampler='InfiniteSampler', loop=(), **options):
    cfg = digits_config('vanilla/resnet8_digits.py', **options)
    return by_iterations(cfg, sampler, **dict(loop))


def run(cfg, work_dir, **options):
    """Train to the end; return what training has made and its scores."""
    scores = Scores('iter')
    runner = finish(cfg, work_dir, hooks=[scores], **options)
    return state(runner), scores.found


@pytest.fixture
def loaded(monkeypatch):
    """Indices of the training images loaded, in order."""
    return note_loaded(monkeypatch)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The uninterrupted run's config, folder, state and scores."""
    folder = tmp_path_factory.mktemp('whole')
    cfg = by_iterations(everything_random(folder, images=IMAGES))
    cfg.default_hooks.warmup = dict(type='DistillWarmupHook', iters=5)
    expected, scores = run(cfg, folder / 'run')
    return cfg, folder / 'run', expected, scores


def test_the_run_is_random_and_is_scored_as_its_intervals_say(whole):
    _, folder, _, scores = whole
    assert [step for step, _ in scores] == [3, 6, 7]
    [file] = folder.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in file.open()]
    # They are scores of these steps, and not of an epoch that nobody counts.
    assert [x['step'] for x in lines if 'accuracy/top1' in x] == [3, 6, 7]
    [log] = folder.glob('*/*.log')
    text = log.read_text()
    assert 'Iter(val) [1/1]' in text
    assert 'Epoch(' not in text


@pytest.mark.parametrize(
    ('done', 'workers'),
    [(2, 0), (3, 2), (4, 0), (7, 0)],
    ids=['before a validation', 'at one', 'after one', 'at the end'],
)
def test_resumed_equals_uninterrupted(whole, tmp_path, done, workers):
    cfg, folder, expected, scores = whole
    if done == 4:
        cfg = copy.deepcopy(cfg)
        cfg.randomness.seed = 5  # gives way to that of the checkpoint
    checkpoint = folder / f'iter_{done}.pth'
    found, rest = run(cfg, tmp_path, workers=workers, checkpoint=checkpoint)
    assert differences(found, expected) == []
    # The checkpoint was written before the score of its step.
    assert rest == [x for x in scores if x[0] >= done]


@pytest.mark.parametrize(
    'options',
    [
        dict(optim_wrapper__accumulative_counts=2),
        dict(train_dataloader__num_batch_per_epoch=2, randomness__seed=None),
    ],
    ids=['accumulation', 'cut-set'],
)
def test_resumed_equals_uninterrupted_with(options, tmp_path):
    cfg = plain('DefaultSampler', **options)
    expected, scores = run(cfg, tmp_path / 'whole')
    checkpoint = tmp_path / 'whole' / 'iter_4.pth'
    found, rest = run(cfg, tmp_path / 'resumed', checkpoint=checkpoint)
    assert differences(found, expected) == []
    assert rest == scores[1:]


def test_banks_of_a_resumed_run_know_every_image(tmp_path):
    """A batch of an endless sampler may hold an image twice, in two passes."""
    cfg = by_iterations(
        distill_config(tmp_path, 'crd/crd_r20_r8_digits.py'), max_iters=4
    )
    cfg.train_dataloader.update(batch_size=32)
    cfg.model.distiller.distill_losses.loss_crd.update(negatives=8, feat_dim=4)
    expected, _ = run(cfg, tmp_path / 'whole')
    checkpoint = tmp_path / 'whole' / 'iter_2.pth'
    found, _ = run(cfg, tmp_path / 'resumed', checkpoint=checkpoint)
    assert differences(found, expected) == []
    bank = 'distiller.distill_losses.loss_crd.bank_S'
    assert expected[f'/weights/{bank}'].shape == (IMAGES, 4)


class Counted(BaseLoop):
    """A validation that only notes when it runs."""

    def __init__(self, runner):
        super().__init__(runner, [])
        self.found = []

    def run(self):
        self.found.append(self.runner.iter)


@pytest.fixture
def loop_of(make_runner, monkeypatch):
    """Build a loop without running it; it counts its steps instead of training."""

    def build(cfg, start=0):
        runner = make_runner(cfg)
        loop = runner._train_loop = runner.build_train_loop(runner._train_loop)
        runner.param_schedulers = []
        runner._val_loop = Counted(runner)
        runner.call_hook = lambda *_, **__: None
        loop._iter = start

        def step(self, batch):
            assert self.runner.model.training
            self._iter += 1
            self.runner.model.eval()  # as a validation leaves it

        monkeypatch.setattr(IterBasedTrainLoop, 'run_iter', step)
        return loop

    return build


def again(loop, start):
    """Run a loop from a step on; return the steps at which it was scored."""
    loop._iter = start
    loop.runner.val_loop.found = []
    loop.run()
    return loop.runner.val_loop.found


INTERVALS = [
    dict(val_begin=4, val_interval=2, max_iters=9),
    dict(val_interval=4, dynamic_intervals=[(5, 2), (8, 3)], max_iters=12),
    dict(val_begin=0, val_interval=100, max_iters=3),
]


@pytest.mark.parametrize('settings', INTERVALS)
def test_scores_are_due_as_in_mmengine(loop_of, settings):
    due = again(loop_of(plain(loop=dict(settings, type='IterBasedTrainLoop'))), 0)
    assert due
    loop = loop_of(plain('DefaultSampler', loop=settings))
    for start in range(settings['max_iters'] + 1):
        assert again(loop, start) == [step for step in due if step >= max(start, 1)]
        assert loop.iter == settings['max_iters']


@pytest.mark.parametrize('sampler', ['InfiniteSampler', 'DefaultSampler'])
def test_the_order_is_mmengines_and_no_image_is_loaded_in_vain(
    loop_of, loaded, sampler, monkeypatch
):
    monkeypatch.setattr(loops.time, 'sleep', lambda seconds: None)
    again(loop_of(plain(sampler)), 0)
    ours = loaded.copy()
    # A sampler that ends makes batches of 16, 16 and 8 images.
    sizes = [16] * 7 if sampler == 'InfiniteSampler' else [16, 16, 8, 16, 16, 8, 16]
    assert len(ours) == sum(sizes)
    assert set(ours[:IMAGES]) == set(ours[IMAGES : 2 * IMAGES]) == set(range(IMAGES))
    loaded.clear()
    again(loop_of(plain(sampler, dict(type='IterBasedTrainLoop'))), 0)
    assert loaded == ours
    for done in (2, 3, 5, 7):
        loaded.clear()
        loop = loop_of(plain(sampler))
        again(loop, done)
        assert loaded == ours[sum(sizes[:done]) :]
        assert len(loop.dataloader) == 3  # which hooks see


def test_a_hook_may_stop_the_run_at_the_first_score(loop_of):
    loop = loop_of(plain(), start=3)
    loop.runner.val_loop.run = lambda: setattr(loop, 'stop_training', True)
    loop.run()
    assert loop.iter == 3


def places_of(loop):
    """The batches that are left, each as (index, step, number) of its images."""
    return [[tuple(x) for x in batch] for batch in loop._placed().batch_sampler]


@pytest.mark.parametrize('sampler', ['InfiniteSampler', 'DefaultSampler'])
def test_two_ranks_share_the_places_of_one(loop_of, monkeypatch, sampler):
    alone = places_of(loop_of(plain(sampler)))
    for step, batch in enumerate(alone):
        assert [x[1:] for x in batch] == [(step, i) for i in range(len(batch))]
    shares = []
    for rank in range(2):
        loop = loop_of(plain(sampler, train_dataloader__batch_size=BATCH // 2))
        own = loop.dataloader.batch_sampler
        own.batch_size, own.sampler.rank = BATCH // 2, rank
        own.sampler.world_size = 2
        own.sampler.num_samples, own.sampler.total_size = IMAGES // 2, IMAGES
        monkeypatch.setattr(
            'cakd_mm.engine.loops.places.get_dist_info', lambda rank=rank: (rank, 2)
        )
        shares.append(places_of(loop))
    for one, *both in zip(alone, *shares, strict=True):
        assert sorted(one, key=lambda x: x[2]) == sorted(
            itertools.chain(*both), key=lambda x: x[2]
        )


@pytest.mark.parametrize('ranks', [1, 2])
def test_another_number_of_images_a_step_is_said(loop_of, monkeypatch, ranks):
    monkeypatch.setattr(resumable_iter_loop, 'get_world_size', lambda: ranks)
    loop = loop_of(plain(), start=4)
    images = ranks * BATCH
    said = []
    monkeypatch.setattr(loop.runner.logger, 'warning', said.append)
    loop.runner.message_hub.update_info('images_of_a_step', 24)
    loop.run()
    [text] = said
    assert f'24 images a step, this one has {images}' in text
    assert f'a run of {images} would be after iteration 4' in text
    assert loop.runner.message_hub.get_info('images_of_a_step') == images


def test_workers_draw_nothing_before_the_run(loop_of, monkeypatch):
    """mmengine 0.10.7 iterates over the loader when the loop is built."""

    class Eager:
        def __init__(self, loader):
            self.iterator = iter(loader)

    monkeypatch.setattr(loops, '_InfiniteDataloaderIterator', Eager)
    cfg = plain(train_dataloader__num_workers=1)
    cfg.train_dataloader.timeout = 60
    eager, lazy = loop_of(cfg), loop_of(plain())
    assert places_of(eager) == places_of(lazy)
    loader = eager.dataloader
    assert (loader.num_workers, loader.timeout) == (1, 60)
    idle = without_workers(loader)
    assert (idle.num_workers, idle.timeout, idle.dataset) == (0, 0, loader.dataset)


def refused(cfg, loop_of, match):
    with pytest.raises(ValueError, match=match):
        loop_of(cfg).run()


def test_what_waits_for_the_end_of_an_epoch_is_refused(loop_of):
    cfg = plain()
    cfg.default_hooks.checkpoint.by_epoch = True
    match = r'`default_hooks\.checkpoint\.by_epoch` = True.*by_epoch=False.*interval=3'
    refused(cfg, loop_of, match)
    for several in (False, True):
        loop = loop_of(plain())
        schedulers = [SimpleNamespace(by_epoch=False), SimpleNamespace(by_epoch=True)]
        loop.runner.param_schedulers = dict(a=schedulers) if several else schedulers
        with pytest.raises(ValueError, match=r'`param_scheduler\.by_epoch` = True'):
            loop.run()
        assert loop.iter == 0


def test_a_schedule_by_epoch_that_is_converted_is_taken(make_runner):
    cfg = plain()
    cfg.param_scheduler = dict(
        type='CosineAnnealingLR', T_max=2, convert_to_iter_based=True
    )
    runner = make_runner(cfg)
    runner._train_loop = loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    loop._require_no_epochs()
    assert runner.param_schedulers[0].T_max == 2 * 3


def test_loaders_that_cannot_be_seeded_are_refused(loop_of):
    runner = loop_of(plain()).runner
    loader = DataLoader(Digits(), batch_size=100)
    with pytest.raises(ValueError, match='`train_dataloader` =.*config of the loader'):
        ResumableIterLoop(runner, loader, max_iters=1)
    refused(plain(train_dataloader__drop_last=True), loop_of_few(loop_of), 'no batch')
    cfg = plain()
    cfg.train_dataloader.batch_size = None
    refused(cfg, loop_of, r'`train_dataloader\.batch_size` = None')


def loop_of_few(loop_of):
    """Cut the set to less than one batch, and end it."""

    def build(cfg):
        cfg.train_dataloader.dataset.indices = 5
        cfg.train_dataloader.sampler = dict(type='DefaultSampler')
        return loop_of(cfg)

    return build


@pytest.mark.parametrize('name', ['resident', 'fast_forward_on_resume'])
def test_what_this_loop_does_not_do_is_no_argument_of_it(name):
    cfg = plain(loop={name: True})
    with pytest.raises(TypeError, match=rf'`train_cfg\.{name}` = True'):
        check_own_arguments(cfg)


def test_images_of_a_checkpoint_of_the_stock_loop_are_gone_on_with(tmp_path, loaded):
    stock = plain(loop=dict(type='IterBasedTrainLoop', max_iters=3))
    stock.train_dataloader.sampler.seed = 0
    finish(stock, tmp_path / 'stock')
    before = loaded.copy()
    checkpoint = tmp_path / 'stock' / 'iter_2.pth'
    loaded.clear()
    finish(plain(), tmp_path / 'ours', checkpoint=checkpoint)
    assert loaded[:BATCH] == before[2 * BATCH :]
    assert len(loaded) == (STEPS - 2) * BATCH
    assert torch.is_grad_enabled()
