from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample, MultiTaskDataSample
from mmrazor.registry import MODELS
from tiny import digits_config
from torch import nn

from cakd_mm.datasets import LabelBatch
from cakd_mm.engine.hooks import LabelRangeHook


def model(num_classes=10):
    net = nn.Module()
    net.head = SimpleNamespace(num_classes=num_classes)
    return net


def distilled(num_classes=10):
    net = nn.Module()
    net.teacher, net.student = model(1000), model(num_classes)
    return net


def sample(*labels, **meta):
    return DataSample(metainfo=meta).set_gt_label(torch.tensor(labels))


def check(data_batch, net=None):
    runner = SimpleNamespace(model=net or model())
    LabelRangeHook().before_train_iter(runner, 0, data_batch=data_batch)


def batch(*samples):
    return dict(inputs=None, data_samples=list(samples))


@pytest.mark.parametrize('net', [model, distilled])
@pytest.mark.parametrize(
    ('samples', 'label', 'where'),
    [
        ([sample(3), sample(10)], 10, 'sample 1 of the batch'),
        ([sample(0), sample(99, img_path='a/b.jpg')], 99, 'a/b.jpg'),
        # Several labels, unlabelled samples between.
        ([DataSample(), sample(0, 9), sample(2, 11, 4)], 11, 'sample 2 of the batch'),
        ([sample(), sample(1, -7)], -7, 'sample 1 of the batch'),
    ],
)
def test_a_label_out_of_range_is_named(net, samples, label, where):
    match = (
        f'`train_dataloader.dataset` = .label {label}.: {where} has it, but the head '
        r'scores 10 classes \(labels 0 to 9\). Set '
    )
    key = 'model.head.num_classes' if net is model else 'architecture.head.num_classes'
    with pytest.raises(ValueError, match=f'{match}.*{key}'):
        check(batch(*samples), net())


def test_classes_of_a_net_of_another_project():
    pytest.importorskip('timm')
    kind = 'mmpretrain.TimmClassifier'
    net = MODELS.build(dict(type=kind, model_name='test_resnet', num_classes=3))
    both = nn.Module()
    both.teacher, both.student = model(1000), net
    for whole, key in ((net, 'model'), (both, 'model.architecture')):
        match = rf'label 3.*scores 3 classes .*Set {key}\.num_classes'
        with pytest.raises(ValueError, match=match):
            check(batch(sample(2), sample(3)), whole)
        check(batch(sample(2)), whole)


GOOD = {
    'lowest and highest': batch(sample(0), sample(9)),
    'an empty one': batch(sample(), sample(3)),
    'partly labelled': batch(DataSample(), sample(9)),
    'no samples': batch(),
    'multi-task': batch(MultiTaskDataSample()),
    'none': dict(inputs=None, data_samples=None),
    'a list of numbers': dict(inputs=None, data_samples=[torch.tensor([77]), 88]),
    'one stacked sample': dict(inputs=None, data_samples=sample(77)),
    'a pair': [torch.zeros(2, 3), torch.tensor([77, 88])],
    'nothing': None,
}


@pytest.mark.parametrize('data_batch', GOOD.values(), ids=GOOD)
def test_good_labels_and_batches_of_other_kinds_pass(data_batch):
    check(data_batch)


@pytest.mark.parametrize(
    ('loss', 'kind'),
    [
        (dict(type='NKDLoss'), 'NKDLoss'),
        (dict(type='DecoupledKDLoss'), 'DecoupledKDLoss'),
        (dict(type='CAKDLogitLoss'), 'CAKDLogitLoss'),
        (
            dict(
                type='CAKDFeatureLoss',
                scorer=dict(type='ScoringNetwork', channels=4, num_classes=10),
            ),
            'CAKDFeatureLoss',
        ),
        (dict(type='CAKDLogitLoss', multi_label=True), None),
        (dict(type='CAKDFeatureLoss'), None),
        (dict(type='KLDivergence'), None),
    ],
)
def test_an_image_has_one_label_where_a_loss_takes_one_class(loss, kind):
    net = distilled()
    net.distiller = nn.Module()
    net.distiller.distill_losses = nn.ModuleDict(dict(loss=MODELS.build(loss)))
    runner, hook = SimpleNamespace(model=net), LabelRangeHook()
    hook.before_train(runner)
    for wrong in ([], [3, 4]):
        found = batch(sample(1), sample(*wrong, img_path='a/b.jpg'))
        hook.before_val_iter(runner, 0, data_batch=found)
        if kind is None:
            hook.before_train_iter(runner, 0, data_batch=found)
            continue
        match = rf'labels \[.*\].: a/b.jpg has {len(wrong)} labels, and {kind} '
        with pytest.raises(ValueError, match=match):
            hook.before_train_iter(runner, 0, data_batch=found)
    for good in (batch(sample(1), DataSample()), dict(data_samples=labels(0, 3))):
        hook.before_train_iter(runner, 0, data_batch=good)


def labels(*values, **fields):
    return LabelBatch(
        gt_label=torch.tensor(values), sample_idx=np.arange(len(values)), **fields
    )


def test_the_labels_of_a_resident_batch_are_looked_at_as_a_whole(monkeypatch):
    batch = labels(0, 9, 4)
    monkeypatch.setattr(LabelBatch, '_make_samples', None)  # not called
    check(dict(inputs=None, data_samples=batch))


@pytest.mark.parametrize(
    ('batch', 'match'),
    [
        (labels(-1, 3), 'label -1.: sample 0 of the batch has it'),
        (labels(0, 99, img_path=['x', 'a/b.jpg']), 'label 99.: a/b.jpg has it'),
    ],
)
def test_a_wrong_label_of_a_resident_batch_is_named(batch, match):
    with pytest.raises(ValueError, match=match):
        check(dict(inputs=None, data_samples=batch))


@pytest.mark.parametrize('net', [nn.Linear(2, 2), model(None)], ids=['no head', 'none'])
def test_a_head_that_does_not_count_classes_passes(net):
    check(batch(sample(1000)), net)


@pytest.mark.parametrize(
    ('mode', 'resident'),
    [('train', False), ('train', True), ('val', True), ('test', False)],
)
def test_a_run_stops_before_the_batch_is_used(make_runner, mode, resident):
    """Digits has labels to 9."""
    cfg = digits_config('vanilla/resnet8_digits.py', model__head__num_classes=5)
    if resident:
        cfg.train_cfg.resident = True
        cfg.val_cfg = dict(type='ResidentValLoop')
    runner = make_runner(cfg)
    runner.model.data_preprocessor.forward = None  # never reached
    with pytest.raises(ValueError, match=f'`{mode}_dataloader.dataset`.*5 classes'):
        getattr(runner, mode)()
