"""Which sets could be kept in memory, and how large they would be."""

import pytest
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope
from tiny import CONFIGS, digits_config

from cakd_mm.datasets.resident_fit import resident_bytes, why_not_resident

KEY = 'train_dataloader'


@DATASETS.register_module()
class RandomItems(BaseDataset):
    """What it gives differs each time, whatever its pipeline."""

    def prepare_data(self, idx):
        raise NotImplementedError


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def loader():
    return digits_config('vanilla/resnet8_digits.py')[KEY]


def test_digits_fit():
    """96 images, enlarged to 16 x 16 before the random crop, of three channels."""
    assert why_not_resident(loader(), KEY) is None
    assert resident_bytes(loader().dataset) == 96 * 16 * 16 * 3
    for name in ('cakd/r56_r20_tinyimagenet.py', 'cakd/r56_r20_cifar100.py'):
        cfg = digits_config(CONFIGS / name)
        assert why_not_resident(cfg[KEY], KEY) is None


def test_imagenet_is_refused_before_its_files_are_listed():
    cfg = digits_config(CONFIGS / 'cakd/r34_r18_in1k.py')
    assert 'RandomResizedCrop' in why_not_resident(cfg[KEY], KEY)


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (dict(dataset=object()), 'is built already'),
        (dict(collate_fn=dict(type='resident_collate')), 'would not be called'),
        (
            dict(dataset=dict(type='ConcatDataset', datasets=[])),
            'ConcatDataset is no single data set',
        ),
        (
            dict(dataset=dict(type='RandomItems', pipeline=[])),
            'RandomItems has a prepare_data of its own',
        ),
        (dict(dataset=dict(type='Digits', pipeline=[])), 'should'),
    ],
)
def test_what_is_not_known_to_fit(change, reason):
    cfg = loader()
    cfg.pop('dataset' if 'dataset' in change else 'collate_fn')
    found = why_not_resident({**cfg, **change}, KEY)
    assert reason in found
    assert 'switch resident data off' not in found
