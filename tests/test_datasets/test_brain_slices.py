import sys

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from tiny import CONFIGS

from cakd_mm.datasets import BrainSlices, brain_slices


@pytest.fixture
def volumes(monkeypatch):
    """Volumes of the template's size, whose values are made by hand."""
    shape = (197, 233, 189)
    t1, grey, white = (np.zeros(shape, np.float32) for _ in range(3))
    monkeypatch.setattr(brain_slices, '_volumes', lambda: [t1, grey, white])
    return t1, grey, white


def test_slices_of_the_splits_lie_apart():
    train, test = brain_slices.slices_of('train'), brain_slices.slices_of('test')
    assert (len(train), len(test)) == (84, 40)
    assert min(abs(a - b) for a in train for b in test) == 3
    blocks = [test[i : i + 10] for i in range(0, 40, 10)]
    assert [(block[0], block[-1]) for block in blocks] == [
        *((28, 37), (58, 67), (88, 97), (118, 127))
    ]
    assert (train[0], train[-1]) == (8, 147)


def test_a_slice_has_its_heights_pixels_with_the_front_above(volumes):
    t1, *_ = volumes
    t1[18:20, 212:214, 30] = [[0.2, 0.6], [0.4, 0.8]]  # the left front corner
    t1[176:178, 22:24, 30] = 1  # the right corner at the back
    t1[:18] = t1[178:] = t1[:, :22] = t1[:, 214:] = 0.9  # outside the window
    data = BrainSlices(split='test')
    assert len(data) == 40
    item = data[2]
    assert item['img_id'] == 30
    assert item['img'].shape == (96, 80, 3)
    assert item['img'].dtype == item['gt_seg_map'].dtype == np.uint8
    wanted = np.zeros((96, 80))
    wanted[0, 0], wanted[95, 79] = 128, 255  # 0.5 * 255 is rounded to even
    assert np.array_equal(item['img'], np.repeat(wanted[..., None], 3, axis=2))
    assert not data[1]['img'].any()


def test_the_label_is_the_likeliest_tissue(volumes):
    """Cases of T1, grey and white, one pixel of 2 x 2 mm each, by hand."""
    cases = [
        # T1, grey, white, label
        *((0.9, 0.7, 0.2, 1), (0.9, 0.2, 0.7, 2), (0.9, 0.1, 0.3, 3)),
        *((0.1, 0.1, 0.3, 0), (0.1, 0.7, 0.0, 1), (0.21, 0.0, 0.0, 3)),
        (0.19, 0.0, 0.0, 0),
    ]
    for index, values in enumerate(cases):
        x = 18 + 2 * index
        for volume, value in zip(volumes, values[:3], strict=True):
            volume[x : x + 2, 212:214, 8] = value
    label = BrainSlices()[0]['gt_seg_map']
    assert label[0, : len(cases)].tolist() == [case[3] for case in cases]
    assert not label[1:].any()


def test_the_template_of_nilearn():
    """Counts of classes, and tissues by their brightness: fluid, grey, white."""
    pytest.importorskip('nilearn')
    for split, shares in (
        ('train', [0.604, 0.234, 0.127, 0.035]),
        ('test', [0.501, 0.284, 0.178, 0.037]),
    ):
        data = BrainSlices(split=split)
        items = [data[i] for i in range(len(data))]
        labels = np.stack([item['gt_seg_map'] for item in items])
        counts = np.bincount(labels.ravel(), minlength=4)
        assert np.allclose(counts / counts.sum(), shares, atol=2e-3)
        grey = np.stack([item['img'][..., 0] for item in items])
        background, own, white, other = (grey[labels == i].mean() for i in range(4))
        assert background < 5 < other < own < white
    assert data.metainfo['classes'] == (
        *('background', 'grey matter', 'white matter', 'other brain'),
    )
    assert len(data.metainfo['palette']) == 4


def test_without_nilearn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'nilearn', None)
    brain_slices._volumes.cache_clear()
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cakd_mm\[brain\]'"):
        BrainSlices()


def test_an_unknown_split_is_named():
    match = r"`dataset.split` = 'val': .*Write 'train' or 'test'"
    with pytest.raises(ValueError, match=match):
        BrainSlices(split='val')


def test_the_bare_name_is_found_from_mmseg():
    registry = pytest.importorskip('mmseg.registry').DATASETS
    assert registry.get('BrainSlices') is BrainSlices


def test_the_base_of_its_configs_gives_whole_slices_to_mmseg(volumes):
    pytest.importorskip('mmseg')
    cfg = Config.fromfile(CONFIGS / '_base_/datasets/brain_slices.py')
    for part, count in (('train', 84), ('test', 40)):
        loader = cfg[f'{part}_dataloader']
        with DefaultScope.overwrite_default_scope('mmseg'):
            data = DATASETS.build(loader.dataset)
        assert len(data) == count
        item = data[0]
        assert item['inputs'].shape == (3, 96, 80)
        assert item['data_samples'].gt_sem_seg.data.shape == (1, 96, 80)
        assert cfg.data_preprocessor.size == (96, 80)
