import functools
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.registry import DATA_SAMPLERS, DATASETS
from mmpretrain.structures import DataSample
from ranks import two_ranks
from tiny import digits_config, save_teacher
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset

from cakd_mm.engine.hooks import SingleImageHook, single_image_hook
from cakd_mm.models.runtime import TeacherRuntime

REVIEWKD = 'reviewkd/reviewkd_r20_r8_digits.py'
KD = 'kd/kd_r20_r8_digits.py'
COMPILABLE = 'cakd/ablations/digits/digits_logit.py'
ALONE = 'vanilla/resnet8_digits.py'
FUSION = r'model.distiller.connectors.fusion.levels.3.reduce.1 \(BatchNorm2d\)'
NECK = dict(
    type='LinearNeck',
    in_channels=64,
    out_channels=64,
    gap_dim=2,
    norm_cfg=dict(type='BN1d'),
)


@DATA_SAMPLERS.register_module()
class UnevenBatches(BatchSampler):
    """Puts the first image into a batch of its own."""

    def __iter__(self):
        first, *others = self.sampler
        yield [first]
        yield others

    def __len__(self):
        return 2


@pytest.fixture
def start(tmp_path, make_runner):
    """Build a run of one epoch in batches of 8."""

    def build(name=REVIEWKD, images=17, hook=True, **options):
        options = dict(train_dataloader__batch_size=8) | options
        cfg = digits_config(name, images=images, epochs=1, **options)
        if 'teacher' in cfg.model:
            cfg.model.teacher_ckpt = str(save_teacher(tmp_path / 'teacher.pth'))
        if not hook:
            del cfg.default_hooks.single_image
        return make_runner(cfg)

    return build


@pytest.mark.parametrize('resident', [False, True])
def test_one_image_that_is_left_over_is_refused(start, resident):
    runner = start(train_cfg__resident=resident)
    match = (
        rf'`train_dataloader.drop_last` = False: Of 17 images one is left over .* and '
        rf'{FUSION} cannot train on it, .* train_dataloader.drop_last=True, or another '
        'train_dataloader.batch_size'
    )
    with pytest.raises(ValueError, match=match):
        runner.train()
    assert runner.iter == 0


def test_a_net_of_ones_own_without_a_teacher_is_looked_at_too(start):
    runner = start(ALONE, model__neck=NECK)
    with pytest.raises(ValueError, match=r'model.neck.norm \(BatchNorm1d\) cannot'):
        runner.train()


def test_the_neck_of_a_student_is_looked_at(start):
    runner = start(KD, model__architecture__neck=NECK)
    with pytest.raises(ValueError, match=r'model.architecture.neck.norm \(BatchNorm1d'):
        runner.train()


def test_batches_that_are_all_of_one_image_are_refused(start):
    match = '`train_dataloader.batch_size` = 1: Each batch is one image, .*size=2 or'
    with pytest.raises(ValueError, match=match):
        start(images=2, train_dataloader__batch_size=1).train()


def test_batches_of_a_batch_sampler_are_looked_at(start):
    batches = dict(type=BatchSampler, drop_last=False)
    match = '`train_dataloader.batch_sampler.drop_last` = False: Of 17 images'
    with pytest.raises(ValueError, match=match):
        start(train_dataloader__batch_sampler=batches).train()
    batches = dict(type='UnevenBatches', drop_last=True)
    with pytest.raises(ValueError, match='Of 16 images one is left over'):
        start(images=16, train_dataloader__batch_sampler=batches).train()


TRAINED = {
    'a whole last batch': dict(images=16),
    'two left over': dict(images=18),
    'dropped': dict(train_dataloader__drop_last=True),
    'never reached': dict(steps=2),
    'endless': dict(steps=4, train_dataloader__sampler__type='InfiniteSampler'),
}


@pytest.mark.parametrize('options', TRAINED.values(), ids=TRAINED)
def test_what_has_no_batch_of_one_is_not_tried(start, monkeypatch, options):
    monkeypatch.setattr(single_image_hook, '_part_that_needs_more', None)
    steps = options.get('steps')
    runner = start(**{k: v for k, v in options.items() if k != 'steps'})
    if steps is not None:
        runner = by_iterations(runner, steps)
    runner.train()
    assert runner.iter == (steps or len(runner.train_dataloader))


def by_iterations(runner, steps):
    """Return a runner that counts steps instead of epochs."""
    cfg = runner.cfg
    cfg.train_cfg = dict(by_epoch=False, max_iters=steps, val_interval=100)
    cfg.default_hooks.checkpoint.by_epoch = False
    cfg.default_hooks.pop('warmup')
    cfg.param_scheduler, cfg.experiment_name = None, f'{cfg.experiment_name}-steps'
    cfg.log_processor = dict(by_epoch=False)
    return type(runner).from_cfg(cfg)


def test_an_iteration_that_reaches_the_batch_of_one_is_refused(start):
    with pytest.raises(ValueError, match='Of 17 images one is left over'):
        by_iterations(start(), 3).train()


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()


def test_a_net_that_trains_on_one_image_goes_on_unchanged(start, monkeypatch):
    """Its maps have several pixels, over which a layer normalises one image."""

    def result(**options):
        runner = start(KD, **options)
        runner.train()
        return runner.model.state_dict()

    tried = []
    part = single_image_hook._part_that_needs_more
    image = single_image_hook._one_image

    def drawing(batch):
        random.random(), np.random.rand(), torch.rand(1)
        return image(batch)

    monkeypatch.setattr(single_image_hook, '_one_image', drawing)

    def watched(model, batch):
        before = states()
        weights = {k: v.clone() for k, v in model.state_dict().items()}
        tried.append(part(model, batch))
        after = states()
        assert before[:2] == after[:2]
        assert torch.equal(before[2], after[2])
        assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())

    monkeypatch.setattr(single_image_hook, '_part_that_needs_more', watched)
    # mmengine's own loop seeds nothing anew, so a draw of the trial would show.
    loop = dict(train_cfg__type='EpochBasedTrainLoop')
    with_hook = result(**loop)
    without = result(hook=False, **loop)
    assert tried == [None]
    assert all(torch.equal(value, without[name]) for name, value in with_hook.items())


def test_a_model_with_another_error_is_left_to_training(start):
    def broken(*_, **__):
        raise RuntimeError('its own')

    runner = start(KD)
    runner.model.student.head.forward = broken
    with pytest.raises(ValueError, match='its own'):
        runner.train()


@DATASETS.register_module()
class OwnNoise(Dataset):
    """Draws its images from a generator of its own, and counts them."""

    def __init__(self, images):
        self.images, self.drawn = images, 0
        self.generator = np.random.default_rng(0)

    def __len__(self):
        return self.images

    def __getitem__(self, index):
        self.drawn += 1
        pixels = self.generator.integers(0, 256, (3, 16, 16), 'uint8')
        label = DataSample().set_gt_label(index % 10)
        return dict(inputs=torch.from_numpy(pixels), data_samples=label)


@pytest.mark.parametrize('collate', ['pseudo_collate', 'default_collate'])
def test_the_data_set_is_asked_for_no_image(start, collate):
    loader = dict(
        train_dataloader__dataset=dict(type='OwnNoise', _delete_=True, images=9),
        train_dataloader__collate_fn__type=collate,
    )
    runner = start(KD, **loader)
    runner.train()
    assert runner.train_dataloader.dataset.drawn == 9
    runner = start(**loader)
    with pytest.raises(ValueError, match=FUSION):
        runner.train()
    assert runner.train_dataloader.dataset.drawn == 8  # the first batch


def test_a_trial_does_not_run_the_copy_of_the_teacher(start, monkeypatch):
    """It would be compiled once more for that."""
    monkeypatch.setattr(
        TeacherRuntime, '__call__', lambda *_: pytest.fail('it was run')
    )
    model = start(model__teacher_runtime=dict(compile=False)).model
    assert model.teacher_runtime is not None
    batch = dict(
        inputs=torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8),
        data_samples=[DataSample().set_gt_label(x) for x in range(2)],
    )
    part = single_image_hook._part_that_needs_more(model, batch)
    assert part == FUSION.replace('\\', '')


@pytest.mark.skipif(
    not hasattr(torch.compiler, 'set_stance'), reason='PyTorch 2.5 compiles the trial'
)
def test_a_compiled_loss_is_compiled_for_whole_batches_alone(start, monkeypatch):
    """Neither for the trial, nor for the last batch of an epoch, which is of one."""
    batches = []

    def backend(graph, inputs):
        batches.append(len(inputs[0]))
        return graph

    monkeypatch.setattr(
        torch, 'compile', functools.partial(torch.compile, backend=backend)
    )
    torch._dynamo.reset()
    loss = 'model__distiller__distill_losses__loss_cakd'
    runner = start(COMPILABLE, **{f'{loss}__compile': True})
    runner.train()
    assert runner.iter == 3
    assert batches == [8]


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm1d(2)

    def data_preprocessor(self, data, training):
        return dict(inputs=torch.stack(data))

    def _run_forward(self, data, mode):
        return self.bn(data['inputs'])


def test_two_ranks_refuse_together(tmp_path):
    """One rank alone has a batch of one image."""

    def work(rank):
        images = list(torch.randn(4 + rank, 2))
        loader = DataLoader(images, batch_size=4, collate_fn=list)
        runner = SimpleNamespace(
            model=Pooled(), train_dataloader=loader, max_iters=2, iter=0, cfg={}
        )
        hook = SingleImageHook()
        hook.before_train(runner)
        try:
            hook.before_train_iter(runner, 0, next(iter(loader)))
        except ValueError as error:
            return str(error)

    first, second = two_ranks(work, tmp_path)
    assert first == second
    assert 'Of 5 images one is left over' in first
