import itertools

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS
from resumed_runs import (
    Scores,
    differences,
    everything_random,
    finish,
    note_loaded,
    state,
)
from tiny import SMALL, digits_config
from torch.utils.data import BatchSampler

from cakd_mm.datasets import Digits, SeededDataset, seeded_dataset
from cakd_mm.engine.loops import ResumableTrainLoop, seeded_loop

STEPS = 3  # batches an epoch, of two epochs
BATCH = 8


def plain(**options):
    return digits_config('vanilla/resnet8_digits.py', **(SMALL | options))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The uninterrupted run's config, state and folder, by kind of checkpoint."""
    folder = tmp_path_factory.mktemp('whole')
    cfg = everything_random(folder, **SMALL)
    runs = {}
    for kind in ('epoch', 'iter'):
        runner = finish(cfg, folder / kind, by_epoch=kind == 'epoch')
        runs[kind] = (cfg, state(runner), folder / kind)
    return runs


def test_the_uninterrupted_run_is_random_and_repeatable(whole):
    assert differences(whole['epoch'][1], whole['iter'][1]) == []
    first = torch.load(whole['iter'][2] / 'iter_1.pth', weights_only=False)
    second = torch.load(whole['iter'][2] / 'iter_2.pth', weights_only=False)
    assert any(
        not torch.equal(value, second['state_dict'][name])
        for name, value in first['state_dict'].items()
    )


@pytest.mark.parametrize(
    ('name', 'workers'),
    [('epoch_1', 0), ('iter_1', 2), ('iter_3', 0), ('iter_4', 0)],
    ids=['after an epoch', 'mid-epoch', 'last step of an epoch', 'second epoch'],
)
def test_resumed_equals_uninterrupted(whole, tmp_path, name, workers):
    kind = name.split('_')[0]
    cfg, expected, folder = whole[kind]
    resumed = finish(
        cfg,
        tmp_path,
        by_epoch=kind == 'epoch',
        workers=workers,
        checkpoint=folder / f'{name}.pth',
    )
    assert differences(state(resumed), expected) == []


def check_resumed(cfg, tmp_path, name):
    """Train ``cfg`` whole and resumed from ``name``; return the resumed run."""
    whole = finish(cfg, tmp_path / 'whole')
    path = tmp_path / 'whole' / f'{name}.pth'
    resumed = finish(cfg, tmp_path / 'resumed', checkpoint=path)
    assert differences(state(resumed), state(whole)) == []
    return whole, resumed


def test_without_a_seed_the_checkpoints_is_taken(tmp_path):
    whole, resumed = check_resumed(plain(randomness__seed=None), tmp_path, 'iter_4')
    assert resumed.seed == whole.seed
    assert type(resumed.train_dataloader.dataset) is SeededDataset  # the default
    assert resumed.train_dataloader.dataset.seed == whole.seed
    assert resumed.train_dataloader.sampler.seed == whole.seed


def test_another_seed_in_the_config_gives_way_to_the_checkpoints(tmp_path):
    whole = finish(plain(), tmp_path / 'whole')
    path = tmp_path / 'whole' / 'iter_4.pth'
    other = finish(plain(randomness__seed=5), tmp_path / 'other', checkpoint=path)
    assert differences(state(other), state(whole)) == []


def test_a_seed_of_the_samplers_own_stays_and_a_last_batch_may_be_smaller(tmp_path):
    cfg = plain(train_dataloader__sampler__seed=99)
    cfg.train_dataloader.dataset.indices = 20
    for runner in check_resumed(cfg, tmp_path, 'iter_4'):
        assert runner.iter == 6
        assert runner.train_dataloader.sampler.seed == 99
        assert runner.train_dataloader.dataset.seed == 0


def test_between_two_updates_of_accumulated_gradients(tmp_path):
    cfg = plain(optim_wrapper__accumulative_counts=2)
    cfg.train_dataloader.dataset.indices = 32
    check_resumed(cfg, tmp_path, 'iter_6')


def test_a_fixed_number_of_batches(tmp_path):
    """mmengine cuts the dataset then with a class of its own."""
    cfg = plain(train_dataloader__num_batch_per_epoch=2)
    for runner in check_resumed(cfg, tmp_path, 'iter_3'):
        assert len(runner.train_dataloader) == 2
        assert int(runner.train_loop._dataset.epoch) == 1


@DATA_SAMPLERS.register_module(name='TestBackwardsBatches', force=True)
class Backwards(BatchSampler):
    """Its batches are not the sampler's indices cut in order."""

    def __init__(self, sampler, batch_size):
        super().__init__(sampler, batch_size, drop_last=False)

    def __iter__(self):
        return iter(list(super().__iter__())[::-1])


def test_a_batch_sampler_of_another_kind(tmp_path):
    cfg = plain(train_dataloader__batch_sampler=dict(type='TestBackwardsBatches'))
    cfg.train_dataloader.dataset.indices = 20
    _, resumed = check_resumed(cfg, tmp_path, 'iter_5')
    assert resumed.train_dataloader.batch_sampler.sampler.seed == 0


class Watch(Hook):
    """Notes what hooks are told of every step."""

    def __init__(self):
        self.steps, self.epochs = [], []

    def before_train_epoch(self, runner):
        self.epochs.append(int(runner.train_dataloader.dataset.epoch))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.steps.append((runner.epoch, runner.iter, batch_idx))
        assert len(runner.train_dataloader) == STEPS


@pytest.fixture
def loaded(monkeypatch):
    """Indices of the training images loaded, in order."""
    return note_loaded(monkeypatch)


def test_hooks_see_the_steps_that_are_left_and_no_batch_is_loaded_twice(
    tmp_path, loaded
):
    everything = Watch()
    finish(plain(), tmp_path / 'whole', hooks=[everything])
    whole = loaded.copy()
    assert everything.steps == [(i // STEPS, i, i % STEPS) for i in range(6)]
    assert everything.epochs == [0, 1]
    assert len(set(whole[:24])) == len(set(whole[24:])) == 24
    for done in (1, 3):
        loaded.clear()
        rest = Watch()
        path = tmp_path / 'whole' / f'iter_{done}.pth'
        finish(plain(), tmp_path / f'from_{done}', checkpoint=path, hooks=[rest])
        assert rest.steps == everything.steps[done:]
        assert loaded == whole[BATCH * done :]
        # A checkpoint of an epoch's last step is followed by the end of that epoch.
        assert rest.epochs == [0, 1]


@pytest.mark.parametrize('name', ['iter_4', 'epoch_1'])
def test_another_batch_size_starts_the_epoch_again(tmp_path, name, monkeypatch):
    begin = dict(val_dataloader__dataset__indices=70)
    finish(plain(**begin), tmp_path / 'whole', by_epoch='epoch' in name)
    cfg = plain(**begin)
    cfg.train_dataloader.batch_size = 12
    said, steps, watch = [], [], Hook()
    watch.before_train_iter = lambda runner, batch_idx, data_batch=None: steps.append(
        (runner.epoch, batch_idx)
    )
    watch.before_run = lambda runner: monkeypatch.setattr(
        runner.logger, 'warning', said.append
    )
    path = tmp_path / 'whole' / f'{name}.pth'
    scores = Scores()
    finish(cfg, tmp_path / 'other', checkpoint=path, hooks=[watch, scores])
    assert steps == [(1, 0), (1, 1)]
    # The middle of an epoch is not scored as its beginning.
    assert [x for x, _ in scores.found] == ([2] if name == 'iter_4' else [1, 2])
    if name == 'iter_4':
        (text,) = (t for t in said if 'steps' in t)
        assert 'epoch of 3 steps, this run has 2' in text
        assert 'epoch 2 starts again at its first batch' in text
    else:
        assert not [t for t in said if 'steps' in t]


def test_a_checkpoint_of_the_stock_loop_starts_its_epoch_again(tmp_path):
    finish(plain(train_cfg__type='EpochBasedTrainLoop'), tmp_path / 'stock')
    watch = Watch()
    path = tmp_path / 'stock' / 'iter_4.pth'
    finish(plain(), tmp_path / 'ours', checkpoint=path, hooks=[watch])
    assert [index for _, _, index in watch.steps] == [0, 1, 2]


def as_rank(sampler, rank):
    """Make the sampler one of two ranks'."""
    sampler.rank, sampler.world_size = rank, 2
    sampler.num_samples = -(-len(sampler.dataset) // 2)
    sampler.total_size = 2 * sampler.num_samples


@pytest.fixture
def loop(make_runner):
    runner = make_runner(plain(train_dataloader__batch_size=4))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    return runner.train_loop


@pytest.mark.parametrize('start', [0, 2, 3])
def test_each_rank_goes_on_in_its_own_share(loop, loaded, start):
    shares = []
    for rank in range(2):
        as_rank(loop.dataloader.sampler, rank)
        loaded.clear()
        everything = list(loop._batches(0))
        shares.append(loaded.copy())
        loaded.clear()
        rest = list(loop._batches(start))
        assert loaded == shares[rank][4 * start :]
        assert [index for index, _ in rest] == list(range(start, 3))
        for (_, got), (_, want) in zip(rest, everything[start:], strict=True):
            for a, b in zip(got['inputs'], want['inputs'], strict=True):
                assert torch.equal(a, b)
    assert sorted(itertools.chain(*shares)) == list(range(24))


def test_steps_of_two_ranks_draw_other_numbers(loop, monkeypatch):
    seeds = set()
    loop.runner.call_hook = lambda *_, **__: None
    loop.runner.model.train_step = lambda *_, **__: seeds.add(torch.initial_seed())
    loop.runner.optim_wrapper = None
    for rank, step in itertools.product(range(2), range(3)):
        monkeypatch.setattr(seeded_loop, 'get_rank', lambda rank=rank: rank)
        loop._iter = step
        loop.run_iter(step, None)
    assert len(seeds) == 6


@pytest.mark.parametrize(('apart', 'seed'), [(False, 7), (True, 4)])
def test_ranks_share_the_order_even_if_their_seeds_differ(
    loop, monkeypatch, apart, seed
):
    """mmengine adds the rank to the seed if ``diff_rank_seed`` is set."""
    monkeypatch.setattr(seeded_dataset, 'get_rank', lambda: 3)
    loop.runner._seed = 7
    loop.runner._randomness_cfg.update(diff_rank_seed=apart)
    loop._max_epochs = 0
    loop.runner.call_hook = lambda *_, **__: None
    loop.run()
    assert loop.dataloader.sampler.seed == seed
    assert loop.dataloader.dataset.seed == seed


def test_a_ready_made_loader_is_left_as_it_is(loop):
    runner = loop.runner
    loader = torch.utils.data.DataLoader(Digits(), batch_size=100)
    ready = ResumableTrainLoop(runner, loader, max_epochs=1)
    assert ready.dataloader is loader
    assert not isinstance(loader.dataset, SeededDataset)
    assert ready._dataset is None
    assert ready.max_iters == 10
    assert [index for index, _ in ready._batches(7)] == [7, 8, 9]


def test_a_run_resumed_after_an_epoch_begins_with_the_score_that_is_due(tmp_path):
    """The checkpoint was written before it; a kill between the two would lose it."""
    cfg = plain(val_dataloader__dataset__indices=70, train_cfg__val_begin=2)
    whole = Scores()
    finish(cfg, tmp_path / 'whole', by_epoch=True, hooks=[whole])
    assert [epoch for epoch, _ in whole.found] == [2]
    for done in (1, 2):
        later = Scores()
        checkpoint = tmp_path / 'whole' / f'epoch_{done}.pth'
        folder = tmp_path / f'from_{done}'
        finish(cfg, folder, by_epoch=True, checkpoint=checkpoint, hooks=[later])
        assert later.found == [x for x in whole.found if x[0] >= done]
