import copy
import uuid
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import DATASETS as CLS_DATASETS
from mmpretrain.structures import DataSample
from PIL import Image
from tiny import SMALL, distill_config
from torch import nn

from cakd_mm.datasets import (
    DecodedImages,
    Digits,
    LabelBatch,
    ResidentDataset,
    SeededDataset,
    seeded_dataset,
)
from cakd_mm.engine.hooks import SampleIndexHook

STEPS = 3
PACK = [dict(type='PackInputs')]


class Listener(nn.Module):
    """A loss that keeps what it is told."""

    def __init__(self):
        super().__init__()
        self.told = None
        self.indices = None

    def set_dataset(self, labels, seed, batch_size):
        self.told = (labels, seed, batch_size)


def losses_in(runner):
    return list(runner.model.distiller.distill_losses.values())


def crd_config(folder, **options):
    """A tiny distillation with CRD alone."""
    cfg = distill_config(folder, **(SMALL | options))
    taps = dict(feature=dict(type='ModuleOutputs', source='neck'))
    cfg.model.distiller = dict(
        type='StrictDistiller',
        student_recorders=taps,
        teacher_recorders=taps,
        distill_losses=dict(
            loss_crd=dict(
                type='CRDBankLoss',
                channels_S=64,
                channels_T=64,
                feat_dim=16,
                negatives=20,
            )
        ),
        loss_forward_mappings=dict(
            loss_crd={
                f'preds_{side}': dict(
                    recorder='feature', from_student=side == 'S', data_idx=0
                )
                for side in 'ST'
            }
        ),
    )
    cfg.default_hooks.sample_index = dict(type='SampleIndexHook')
    return cfg


def finish(cfg, work_dir, workers=0, checkpoint=None, by_epoch=False):
    """Train to the end, from ``checkpoint`` if given."""
    cfg = copy.deepcopy(cfg)
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
    runner.train()
    if workers:
        runner.train_dataloader._iterator._shutdown_workers()
    return runner


def crd_of(runner):
    return runner.model.distiller.distill_losses['loss_crd']


def load(path):
    return torch.load(path, map_location='cpu', weights_only=False)['state_dict']


# Whole runs


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp('whole')
    cfg = crd_config(folder)
    return folder, cfg, finish(cfg, folder / 'run')


def test_a_run_fills_the_bank(whole):
    folder, cfg, runner = whole
    loss = crd_of(runner)
    digits = Digits(indices=8 * STEPS, pipeline=PACK)
    assert loss.labels.tolist() == digits.get_gt_labels().tolist()
    assert (loss.steps, loss.seed, loss.batch_size) == (2 * STEPS, 0, 8)
    # Every image was entered twice.
    for bank in (loss.bank_S, loss.bank_T):
        torch.testing.assert_close(bank.norm(dim=1), torch.ones(8 * STEPS))
    before = load(folder / 'run' / 'iter_1.pth')
    name = 'distiller.distill_losses.loss_crd.embed_S.weight'
    after = runner.model.state_dict()[name]
    assert not torch.equal(before[name], after)


def test_the_bank_has_the_embedding_of_the_image_at_that_place(whole):
    """The teacher does not change, so neither does its feature of an image."""
    folder, cfg, runner = whole
    cfg = copy.deepcopy(cfg)
    # No crops; embeddings that stay as they are.
    cfg.train_dataloader.dataset.pipeline.pop(1)
    cfg.optim_wrapper.optimizer.lr = 0.0
    cfg.model.distiller.distill_losses.loss_crd.momentum = 0.0
    cfg.train_cfg.max_epochs = 1
    runner = finish(cfg, folder / 'plain')
    loss, model = crd_of(runner), runner.model
    dataset = runner.train_dataloader.dataset
    images = torch.stack([dataset[i]['inputs'] for i in range(len(dataset))])
    data = model.data_preprocessor(dict(inputs=images))
    with torch.no_grad():
        feature = model.teacher.neck(model.teacher.backbone(data['inputs']))[0]
        expected = nn.functional.normalize(loss.embed_T(feature))
    torch.testing.assert_close(loss.bank_T, expected, rtol=1e-3, atol=1e-4)


def test_a_resumed_run_equals_the_uninterrupted_one(whole, tmp_path):
    folder, cfg, runner = whole
    checkpoint = folder / 'run' / 'iter_4.pth'
    other = finish(cfg, tmp_path, checkpoint=checkpoint)
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name


def test_the_seed_of_the_run_is_the_banks(whole, tmp_path):
    folder, cfg, _ = whole
    cfg = copy.deepcopy(cfg)
    cfg.randomness.seed = 5
    cfg.train_cfg.max_epochs = 1
    assert crd_of(finish(cfg, tmp_path)).seed == 5
    # But a checkpoint's goes on.
    cfg.train_cfg.max_epochs = 2
    checkpoint = folder / 'run' / f'iter_{STEPS}.pth'
    assert crd_of(finish(cfg, tmp_path, checkpoint=checkpoint)).seed == 0


def no_hook(cfg):
    cfg.default_hooks.pop('sample_index')


def mix_images(cfg):
    cfg.data_preprocessor.batch_augments = dict(augments=dict(type='Mixup', alpha=0.8))


def keep_no_index(cfg):
    pack = dict(type='PackInputs', meta_keys=('img_shape',))
    cfg.train_dataloader.dataset.pipeline[-1] = pack


def other_images(cfg):
    cfg.train_dataloader.dataset.indices = 16


@pytest.mark.parametrize(
    ('change', 'step', 'match'),
    [
        (no_hook, None, "sample_index=.*type='SampleIndexHook'"),
        (mix_images, None, 'batch_augments.*CRDBankLoss knows images'),
        (keep_no_index, None, "CRDBankLoss needs.*add 'sample_idx'"),
        (other_images, 2, 'has 16 images, this has 24.*student_ckpt'),
    ],
)
def test_what_the_bank_cannot_go_with_is_refused(whole, tmp_path, change, step, match):
    folder, cfg, _ = whole
    cfg = copy.deepcopy(cfg)
    change(cfg)
    checkpoint = step and folder / 'run' / f'iter_{step}.pth'
    with pytest.raises((RuntimeError, ValueError), match=match):
        finish(cfg, tmp_path, checkpoint=checkpoint)


# Data sets


def runner_of(dataset, model=None, batch_size=8, **kwargs):
    """What the hook needs of a runner, with a loader over ``dataset``."""
    build = dict(
        dataset=dataset,
        batch_size=batch_size,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='default_collate'),
    )
    loop = FakeLoop(Runner.build_dataloader(build | kwargs, seed=0))
    if model is None:
        model = nn.Module()
        model.data_preprocessor = SimpleNamespace(batch_augments=None)
        model.distiller = nn.Module()
        losses = dict(a=Listener(), b=Listener(), c=nn.Linear(1, 1))
        model.distiller.distill_losses = nn.ModuleDict(losses)
    return SimpleNamespace(
        model=model, _train_loop=loop, seed=12, _randomness_cfg=dict(seed=12)
    )


class FakeLoop(SampleIndexHook.__init__.__globals__['BaseLoop']):
    def __init__(self, dataloader):
        self.dataloader = dataloader

    def run(self):
        raise NotImplementedError


def folder_of_images(path):
    """Twelve images of three classes; each one's grey level tells which it is."""
    for place in range(12):
        file = path / f'class{place % 3}' / f'{place:02}.png'
        file.parent.mkdir(exist_ok=True)
        Image.new('RGB', (4, 4), (place * 20,) * 3).save(file)
    return path


def digits(**kwargs):
    return dict(type='Digits', pipeline=PACK) | kwargs


def wrapped(kind, **kwargs):
    return lambda _: DATASETS.build(
        dict(type=kind, dataset=Digits(indices=60, pipeline=PACK), **kwargs)
    )


SETS = {
    'a subset': lambda _: Digits(indices=[5, 900, 17, 3, 44, 45, 46], pipeline=PACK),
    'a lazy one': lambda _: Digits(indices=30, pipeline=PACK, lazy_init=True),
    'seeded': lambda _: SeededDataset(Digits(indices=40, pipeline=PACK), 0),
    'decoded': lambda path: DecodedImages(
        data_root=str(folder_of_images(path)), pipeline=PACK, per_class=(1, 4)
    ),
    'a folder': lambda path: CustomDataset(
        data_root=str(folder_of_images(path)),
        pipeline=[dict(type='LoadImageFromFile'), *PACK],
    ),
    'repeated': wrapped('RepeatDataset', times=3),
    'balanced': wrapped('ClassBalancedDataset', oversample_thr=0.2),
    'a fold': lambda _: CLS_DATASETS.build(
        dict(
            type='KFoldDataset',
            dataset=digits(indices=60),
            num_splits=3,
            seed=0,
        )
    ),
}


@pytest.mark.parametrize(
    ('kind', 'workers'), [(kind, 2 if kind == 'seeded' else 0) for kind in SETS]
)
def test_indices_are_those_of_the_images(kind, workers, tmp_path):
    dataset = SETS[kind](tmp_path)
    options = dict(num_workers=workers, persistent_workers=workers > 0)
    runner = runner_of(dataset, **options)
    hook = SampleIndexHook()
    hook.before_run(runner)
    first, second, _ = losses_in(runner)
    labels, seed, batch_size = first.told
    assert (seed, batch_size) == (12, 8)
    assert second.told[0] is labels
    single = dataset
    while 'Repeat' in kind or not hasattr(single, 'get_gt_labels'):
        single = single.dataset
    assert len(labels) == len(single)
    images = {}
    loader = runner._train_loop.dataloader
    for _ in range(2):
        for number, batch in enumerate(loader):
            hook.before_train_iter(runner, number, data_batch=batch)
            assert first.indices.dtype == torch.int64
            assert torch.equal(first.indices, second.indices)
            assert len(first.indices) == len(batch['data_samples'])
            for index, image in zip(
                first.indices.tolist(), batch['inputs'], strict=True
            ):
                # One place, one image, in all epochs.
                assert torch.equal(images.setdefault(index, image), image)
                assert torch.equal(single[index]['inputs'], image)
    assert sorted(images) == list(range(len(labels)))
    if workers:
        loader._iterator._shutdown_workers()


def test_ranks_with_seeds_apart_share_one(monkeypatch):
    runner = runner_of(Digits(indices=20, pipeline=PACK))
    hook = SampleIndexHook()
    monkeypatch.setattr(seeded_dataset, 'get_rank', lambda: 3)
    hook.before_run(runner)
    assert losses_in(runner)[0].told[1] == 12
    runner._randomness_cfg['diff_rank_seed'] = True
    hook.before_run(runner)
    assert losses_in(runner)[0].told[1] == 9


def resident(dataset):
    runner = runner_of(
        ResidentDataset(dataset), collate_fn=dict(type='resident_collate')
    )
    hook = SampleIndexHook()
    hook.before_run(runner)
    return hook, runner


def test_a_resident_batch_has_its_indices_without_samples(monkeypatch):
    hook, runner = resident(Digits(indices=20, pipeline=PACK))
    monkeypatch.setattr(LabelBatch, '_make_samples', None)  # not called
    listener, seen = losses_in(runner)[0], []
    for number, batch in enumerate(runner._train_loop.dataloader):
        hook.before_train_iter(runner, number, data_batch=batch)
        assert listener.indices.dtype == torch.int64
        assert listener.indices.tolist() == batch['data_samples'].sample_idx.tolist()
        seen += listener.indices.tolist()
    assert sorted(seen) == list(range(20))
    assert listener.told[0].tolist() == Digits(indices=20).get_gt_labels().tolist()


@pytest.mark.parametrize(
    ('index', 'label', 'match'),
    [(1, 5, 'has class 5, but.*has class 1 there'), (20, 1, 'has nothing there')],
)
def test_a_resident_batch_of_another_set_is_refused(index, label, match):
    hook, runner = resident(Digits(indices=20, pipeline=PACK))
    wrong = LabelBatch(
        gt_label=torch.tensor([0, label]), sample_idx=np.array([0, index])
    )
    with pytest.raises(ValueError, match=f'sample_idx {index}.*{match}'):
        hook.before_train_iter(runner, 0, data_batch=dict(data_samples=wrong))


class Bare:
    """A data set that knows no labels."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(inputs=torch.zeros(3, 4, 4), data_samples=DataSample())


class Several(Digits):
    def load_data_list(self):
        items = super().load_data_list()[:6]
        for number, item in enumerate(items):
            item['gt_label'] = list(range(1 + number % 2))
        return items


class Unlabelled(Digits):
    def load_data_list(self):
        return [dict(img=item['img']) for item in super().load_data_list()]


def joined():
    parts = [Digits(indices=20, pipeline=PACK) for _ in range(2)]
    return DATASETS.build(dict(type='ConcatDataset', datasets=parts))


@pytest.mark.parametrize(
    ('dataset', 'match'),
    [
        (joined, 'ConcatDataset.: It has no get_gt_labels.*as Listener needs.*one'),
        (lambda: Several(pipeline=PACK), 'Several.*one class index each'),
        (lambda: Unlabelled(pipeline=PACK), 'Unlabelled.: It has images without lab'),
        (
            lambda: SeededDataset(Unlabelled(pipeline=PACK), 0),
            'Unlabelled.: It has images without labels, as Listener needs',
        ),
    ],
)
def test_sets_without_one_class_index_each(dataset, match):
    runner = runner_of(dataset())
    with pytest.raises(ValueError, match='`train_dataloader.dataset` = .*' + match):
        SampleIndexHook().before_run(runner)


def sample(index, label, **meta):
    meta = meta if index is None else dict(meta, sample_idx=index)
    return DataSample(metainfo=meta).set_gt_label(label)


@pytest.fixture
def ready():
    """The hook, told of twenty digits, and its runner."""
    runner = runner_of(Digits(indices=20, pipeline=PACK))
    hook = SampleIndexHook()
    hook.before_run(runner)
    return hook, runner  # labels 0, 1, ... 9, 0, 1, ... 9


@pytest.mark.parametrize(
    ('samples', 'match'),
    [
        (
            [sample(3, 3), sample(4, 5, img_path='x.png')],
            'x.png has class 5.*class 4',
        ),
        ([sample(20, 0)], 'sample_idx 20.*image 0 of the batch.*20 images has nothing'),
        ([DataSample(metainfo=dict(sample_idx=2))], 'has class -1.*class 2 there'),
    ],
)
def test_an_index_of_another_image_is_refused(ready, samples, match):
    hook, runner = ready
    with pytest.raises(ValueError, match=match):
        hook.before_train_iter(runner, 0, data_batch=dict(data_samples=samples))
    assert losses_in(runner)[0].indices is None


@pytest.mark.parametrize(
    'batch',
    [
        None,
        torch.zeros(3),
        dict(data_samples=[]),
        dict(data_samples=[sample(1, 1), sample(None, 1)]),
        dict(data_samples=[sample('a', 1)]),
    ],
)
def test_a_batch_without_indices_is_refused(ready, batch):
    hook, runner = ready
    with pytest.raises(ValueError, match="PackInputs.*add 'sample_idx'"):
        hook.before_train_iter(runner, 0, data_batch=batch)


@pytest.mark.parametrize(
    ('model', 'loop'),
    [
        pytest.param(nn.Linear(1, 1), 'built', id='no-such-loss'),
        pytest.param(None, dict(type='EpochBasedTrainLoop'), id='before-validation'),
        pytest.param(None, None, id='before-a-test'),
    ],
)
def test_where_nothing_is_trained_by_index_it_looks_at_nothing(model, loop):
    runner = runner_of(Bare(), model=model)
    if loop != 'built':
        runner._train_loop = loop
    hook = SampleIndexHook()
    hook.before_run(runner)
    if model is None:
        assert losses_in(runner)[0].told is None
    else:
        hook.before_train_iter(runner, 0, data_batch=None)
