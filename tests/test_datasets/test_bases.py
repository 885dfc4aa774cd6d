"""The shipped dataset configs, on a few images of the sizes they are for."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS, MODELS
from tiny import CONFIGS

from cakd_mm.tasks import TASKS

BASES = CONFIGS / '_base_/datasets'
PARTS = ('train', 'val', 'test')


def load(name, root):
    cfg = Config.fromfile(BASES / f'{name}.py')
    for part in PARTS:
        cfg[f'{part}_dataloader'].dataset.data_root = str(root)
    return cfg


def build(cfg, part):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return DATASETS.build(cfg[f'{part}_dataloader'].dataset)


def write(path, size, blue=200):
    """Write an image that is rather blue."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.RandomState(0).randint(0, 40, (size, size, 3), np.uint8)
    image[..., 0] += blue
    cv2.imwrite(str(path), image)


@pytest.fixture(params=[32, 64])
def tiny(tmp_path, request):
    """Tiny-ImageNet with two classes, at both sizes there are."""
    for wnid in ('n01', 'n02'):
        write(tmp_path / f'train/{wnid}/images/0.JPEG', request.param)
        write(tmp_path / f'val/images/{wnid}.JPEG', request.param)
    lines = [f'{wnid}.JPEG\t{wnid}\n' for wnid in ('n01', 'n02')]
    (tmp_path / 'val/val_annotations.txt').write_text(''.join(lines))
    (tmp_path / 'wnids.txt').write_text('n01\nn02')
    (tmp_path / 'words.txt').write_text('n01\ta\nn02\tb\n')
    return tmp_path, request.param


@pytest.fixture
def cifar10(tmp_path):
    for split in ('train', 'test'):
        for i, name in enumerate(('cat', 'dog')):
            write(tmp_path / split / name / f'{i}.jpg', 32)
    return tmp_path


@pytest.mark.parametrize(
    ('name', 'size'), [('tinyimagenet', 32), ('tinyimagenet_64px', 64)]
)
def test_tiny_imagenet_has_two_sizes(tiny, name, size):
    root, given = tiny
    cfg = load(name, root)
    for part in PARTS:
        data = build(cfg, part)
        assert data.split == ('train' if part == 'train' else 'val')
        assert [tuple(item['inputs'].shape) for item in data] == [(3, size, size)] * 2
    pixels = cv2.imread(data.get_data_info(0)['img_path']).transpose(2, 0, 1)
    assert np.array_equal(data[0]['inputs'].numpy(), pixels) == (given == size)
    assert cfg.data_preprocessor.num_classes == 200
    assert TASKS[0].image_shape(Config(dict(cfg, model={}))) == (3, size, size)


@pytest.mark.parametrize(
    ('name', 'size', 'images'),
    [
        ('cifar10_images', 32, None),
        ('cifar10_mini', 32, 1000),
        ('cifar10_16px', 16, 200),
    ],
)
def test_cifar10_from_images(cifar10, name, size, images):
    cfg = load(name, cifar10)
    per_class = cfg.train_dataloader.dataset.pop('per_class', None)
    assert per_class == (images and (0, images))
    for part in PARTS:
        data = build(cfg, part)
        folder = 'train' if part == 'train' else 'test'
        assert f'/{folder}/cat/' in data.get_data_info(0)['img_path']
        assert [tuple(item['inputs'].shape) for item in data] == [(3, size, size)] * 2
        loader = cfg[f'{part}_dataloader']
        given = (loader.num_workers, loader.persistent_workers, loader.pin_memory)
        assert given == ((0, False, False) if images else (2, True, True))
    assert np.array_equal(
        data[0]['inputs'].numpy(), data.get_data_info(0)['img'].transpose(2, 0, 1)
    )
    assert cfg.data_preprocessor.num_classes == 10


@pytest.mark.parametrize(
    'name',
    [
        'tinyimagenet',
        'tinyimagenet_64px',
        'cifar10_images',
        'cifar10_mini',
        'cifar10_16px',
    ],
)
def test_the_network_sees_rgb_about_zero(cifar10, name):
    """Blue comes last, and grey of the set's mean is zero."""
    cfg = load(name, cifar10)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        preprocessor = MODELS.build(
            dict(type='ClsDataPreprocessor', **cfg.data_preprocessor)
        )
    blue = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1).expand(3, 2, 2)
    batch = dict(inputs=blue[None])
    seen = preprocessor(batch, training=True)['inputs'][0, :, 0, 0]
    mean, std = (torch.tensor(cfg.data_preprocessor[k]) for k in ('mean', 'std'))
    assert torch.allclose(seen, (torch.tensor([0.0, 0.0, 255.0]) - mean) / std)
    assert (mean > 100).all() and (mean < 130).all()
    assert (std > 60).all() and (std < 75).all()
    assert mean[0] > mean[1] > mean[2]  # as in most photographs
