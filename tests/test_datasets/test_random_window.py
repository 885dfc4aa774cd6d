import numpy as np
import pytest
from mmpretrain.datasets.transforms import RandomCrop
from scipy.stats import chisquare

from cakd_mm.datasets import Digits
from cakd_mm.datasets.random_window import RandomWindow, split

LOAD = dict(type='LoadImageFromFile')
RESIZE = dict(type='Resize', scale=16)
CROP = dict(type='RandomCrop', crop_size=16, padding=2)
FLIP = dict(type='RandomFlip', prob=0.3, direction='horizontal')
PACK = dict(type='PackInputs')


def transforms(*configs):
    return Digits(indices=1, pipeline=list(configs)).pipeline.transforms


def names(steps):
    return [type(step).__name__ for step in steps]


@pytest.mark.parametrize('crop', [[], [CROP]], ids=['', 'crop'])
@pytest.mark.parametrize('flip', [[], [FLIP]], ids=['', 'flip'])
@pytest.mark.parametrize(
    'fixed',
    [
        [],
        [LOAD, RESIZE],
        [
            LOAD,
            dict(type='ResizeEdge', scale=20, edge='short'),
            dict(type='CenterCrop', crop_size=16),
            dict(type='Pad', size=(18, 18)),
        ],
        [dict(type='EfficientNetCenterCrop', crop_size=16)],
    ],
    ids=['', 'resize', 'crops', 'efficient'],
)
def test_a_pipeline_falls_into_two(fixed, crop, flip):
    found, window = split(transforms(*fixed, *crop, *flip, PACK))
    assert names(found) == [step['type'] for step in fixed]
    assert (window.crop is not None) == bool(crop)
    assert window.flip_prob == (0.3 if flip else 0)
    assert window.is_random == bool(crop or flip)


REFUSED = {
    'reflect': ([CROP | dict(padding_mode='reflect'), PACK], "padding_mode='reflect'"),
    'if needed': ([CROP | dict(pad_if_needed=True), PACK], 'pad_if_needed=True'),
    'both ways': (
        [FLIP | dict(prob=[0.1, 0.2], direction=['horizontal', 'vertical']), PACK],
        'RandomFlip.*horizontal',
    ),
    'one between': (
        [CROP, dict(type='ColorJitter', brightness=0.5), FLIP, PACK],
        'ColorJitter.*this stands where',
    ),
    'flip first': ([FLIP, CROP, PACK], 'RandomCrop.*this stands where'),
    'empty': ([], 'None.*this stands where'),
    'another key': ([dict(PACK, input_key='gt')], "input_key='gt'.*nothing else"),
    'after pack': ([PACK, FLIP], 'RandomFlip.*It comes after PackInputs'),
}


@pytest.mark.parametrize(('configs', 'match'), REFUSED.values(), ids=REFUSED)
def test_what_batches_cannot_go_through_is_named(configs, match):
    with pytest.raises(ValueError, match=match) as error:
        split(transforms(*configs))
    assert '`dataset.pipeline` = ' in str(error.value)
    assert 'train_cfg.resident=False' in str(error.value)


def test_a_subclass_may_do_anything():
    class Mine(RandomCrop):
        pass

    with pytest.raises(ValueError, match='this stands where'):
        split([Mine(16), *transforms(PACK)])


COUNT = 20_000


def drawn(window=None, seed=0, epoch=0, count=COUNT, shape=(32, 32)):
    if window is None:
        window = RandomWindow(RandomCrop(32, padding=4), 0.3)
    return window.draw(seed, epoch, count, shape)


def test_the_same_distribution_as_mmpretrains_own():
    """Its own draws, of a crop that is not square, beside ours."""
    crop = RandomCrop((5, 7), padding=(0, 1, 2, 3))
    image = np.zeros((6 + 4, 8 + 2, 3))
    np.random.seed(0)
    theirs = np.array([crop.rand_crop_params(image) for _ in range(4000)])
    ours = drawn(RandomWindow(crop, 0.5), count=4000, shape=(6, 8))
    for column, values in enumerate((ours.top, ours.left)):
        counts = [np.bincount(x) for x in (theirs[:, column], values)]
        assert len(counts[0]) == len(counts[1])
        even = np.full(len(counts[0]), 4000 / len(counts[0]))
        for count in counts:
            assert chisquare(count, even).pvalue > 0.01
    assert (theirs[:, 2:] == (5, 7)).all()


def test_draws_depend_on_seed_and_epoch_alone():
    first = drawn(count=100)
    np.random.seed(5)
    again = drawn(count=100)
    for name in ('top', 'left', 'flips'):
        assert (getattr(first, name) == getattr(again, name)).all()
    views = {
        tuple(drawn(seed=seed, epoch=epoch, count=100).top)
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(views) == 9


def test_the_pipelines_of_the_configs_of_small_sets(root):
    from mmengine.config import Config

    checked = 0
    for name in ('digits', 'cifar100', 'cifar10_16px', 'tinyimagenet'):
        cfg = Config.fromfile(root / f'configs/_base_/datasets/{name}.py')
        for pipeline in (cfg.train_pipeline, cfg.test_pipeline):
            _, window = split(transforms(*pipeline))
            checked += 1
            assert window.is_random == (pipeline is cfg.train_pipeline)
    assert checked == 8
