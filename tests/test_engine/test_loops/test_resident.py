"""Runs on resident data against runs on the ordinary pipeline."""

import pytest
import torch
from mmengine.hooks import Hook
from mmpretrain.structures import DataSample
from resumed_runs import differences, everything_random, finish, state
from test_resumable_train_loop import BATCH, STEPS, as_rank, plain
from tiny import SMALL, distill_config
from torch.utils.data import DataLoader

from cakd_mm.datasets import Digits, LabelBatch, ResidentDataset
from cakd_mm.engine.hooks import LabelRangeHook
from cakd_mm.engine.loops import ResumableTrainLoop
from cakd_mm.engine.loops.resident import resident_loader

VAL = dict(type='ResidentValLoop')


class Batches(Hook):
    """Keeps what is trained on, and brings images to one layout.

    Convolutions round otherwise in channels_last.
    """

    def __init__(self):
        self.kinds, self.indices, self.images = [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        data_batch['inputs'] = data_batch['inputs'].contiguous()
        samples = data_batch['data_samples']
        self.kinds.append(type(samples))
        self.indices.append([sample.sample_idx for sample in samples])
        self.images.append(data_batch['inputs'])

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        data_batch['inputs'] = data_batch['inputs'].contiguous()


def without_crops(**options):
    cfg = plain(**options)
    cfg.train_dataloader.dataset.pipeline.pop(1)
    return cfg


@pytest.mark.parametrize(
    ('kind', 'val'), [('classifier', 'ValLoop'), ('distillation', 'ResidentValLoop')]
)
def test_without_random_transforms_the_run_is_the_ordinary_one(tmp_path, kind, val):
    """Same images in the same order: losses, weights and accuracy are equal."""
    states, seen = [], []
    for resident in (False, True):
        if kind == 'classifier':
            cfg = without_crops()
        else:
            cfg = distill_config(tmp_path, **SMALL)
            cfg.train_dataloader.dataset.pipeline.pop(1)
        cfg.train_cfg.resident = resident
        cfg.val_cfg = dict(type=val if resident else 'ValLoop')
        hook = Batches()
        runner = finish(cfg, tmp_path / f'{kind}{resident}', hooks=[hook])
        states.append(state(runner))
        seen.append(hook)
    ordinary, resident = seen
    assert set(ordinary.kinds) == {list}
    assert set(resident.kinds) == {LabelBatch}
    assert ordinary.indices == resident.indices
    for a, b in zip(ordinary.images, resident.images, strict=True):
        assert torch.equal(a, b)
    assert states[0].keys() == states[1].keys()
    assert differences(*states) == []


def resident(cfg):
    cfg.train_cfg.resident = True
    cfg.val_cfg = VAL
    return cfg


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A run with crops, mixup and dropout, and its checkpoints of every step."""
    folder = tmp_path_factory.mktemp('whole')
    cfg = resident(everything_random(folder, **SMALL))
    runner = finish(cfg, folder / 'run')
    return cfg, state(runner), folder / 'run'


@pytest.mark.parametrize('step', [1, 3])
def test_resumed_equals_uninterrupted(whole, tmp_path, step):
    cfg, expected, folder = whole
    resumed = finish(cfg, tmp_path, checkpoint=folder / f'iter_{step}.pth')
    assert differences(state(resumed), expected) == []
    assert isinstance(resumed.train_dataloader.dataset, ResidentDataset)


def test_each_epoch_has_all_images_in_other_windows(tmp_path):
    hook = Batches()
    finish(resident(plain()), tmp_path / 'images', hooks=[hook])
    [first, second] = [
        dict(
            zip(sum(hook.indices[part], []), torch.cat(hook.images[part]), strict=True)
        )
        for part in (slice(STEPS), slice(STEPS, None))
    ]
    assert sorted(first) == sorted(second) == list(range(BATCH * STEPS))
    equal = [torch.equal(first[index], second[index]) for index in first]
    assert sum(equal) < 4  # one of 25 crops may repeat


def test_the_checkpoints_seed_is_taken(tmp_path):
    whole = finish(resident(plain()), tmp_path / 'whole')
    path = tmp_path / 'whole' / 'iter_4.pth'
    other = resident(plain(randomness__seed=5))
    other = finish(other, tmp_path / 'other', checkpoint=path)
    assert differences(state(other), state(whole)) == []
    assert other.train_dataloader.dataset.seed == 0


@pytest.fixture
def loop(make_runner):
    runner = make_runner(resident(plain(train_dataloader__batch_size=4)))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    return runner.train_loop


@pytest.mark.parametrize('start', [0, 1])
def test_two_ranks_see_disjoint_images_that_one_would_see(loop, start):
    """The share of each, from any step on, with the windows of the whole set."""
    loop._dataset.epoch.fill_(4)
    alone = loop._dataset.__getitems__(range(24))['inputs']
    seen = []
    for rank in range(2):
        as_rank(loop.dataloader.sampler, rank)
        batches = [batch for _, batch in loop._batches(start)]
        assert len(batches) == 3 - start
        for batch in batches:
            places = batch['data_samples'].sample_idx
            assert torch.equal(batch['inputs'], alone[places])
            seen += places.tolist()
    assert len(seen) == len(set(seen)) == 2 * 4 * (3 - start)


def test_options_of_workers_are_left_out():
    model = torch.nn.Linear(1, 1)
    digits = dict(type='Digits', cache_dir=None)
    kept = dict(sampler=dict(type='DefaultSampler'), batch_size=7, drop_last=True)
    workers = dict(
        num_workers=3,
        prefetch_factor=4,
        persistent_workers=True,
        pin_memory=True,
        timeout=9,
        collate_fn=dict(type='default_collate'),
    )
    found = resident_loader(dict(dataset=digits, **kept, **workers), model, seed=3)
    settings = dict(seed=3, device='cpu', cache_dir=None)
    assert found == dict(
        dataset=dict(type='ResidentDataset', dataset=digits, **settings),
        **kept,
        num_workers=0,
        persistent_workers=False,
        pin_memory=False,
        collate_fn=dict(type='resident_collate'),
    )
    meta = resident_loader(dict(dataset=Digits()), model.to('meta'))
    assert meta['dataset']['device'] == 'meta'


def test_a_loader_that_is_built_already(loop):
    with pytest.raises(ValueError, match='train_cfg.resident.*built already'):
        ResumableTrainLoop(loop.runner, DataLoader(Digits()), True, max_epochs=1)


def test_batches_without_a_sample_for_each(loop, monkeypatch):
    """None is made on the way to the model, its check included."""
    made, init = [], DataSample.__init__

    def note(self, *args, **kwargs):
        made.append(self)
        init(self, *args, **kwargs)

    monkeypatch.setattr(DataSample, '__init__', note)
    [hook] = (h for h in loop.runner.hooks if isinstance(h, LabelRangeHook))
    for index, batch in loop._batches(0):
        hook.before_train_iter(loop.runner, index, data_batch=batch)
    assert index == 5
    assert not made
    assert len(list(batch['data_samples'])) == len(made) == 4


def test_teacher_and_student_are_scored_as_on_ordinary_data(tmp_path, make_runner):
    scores = []
    for keep in (False, True):
        cfg = distill_config(tmp_path, images=32)
        cfg.val_cfg = dict(type='StudentTeacherValLoop', resident=keep)
        runner = make_runner(cfg, f'run{keep}')
        torch.manual_seed(0)
        runner.model.init_weights()
        scores.append(runner.val())
        wanted = ResidentDataset if keep else Digits
        assert isinstance(runner.val_dataloader.dataset, wanted)
    assert scores[0] == pytest.approx(scores[1])
    assert {'accuracy/top1', 'teacher/accuracy/top1'} <= scores[0].keys()
