"""The tool that measures mean and standard deviation of a config's images."""

import pickle
import re
import runpy
import sys
from hashlib import md5

import cv2
import numpy as np
import pytest
from mmpretrain.datasets import CIFAR100
from tiny import CONFIGS

PATH = CONFIGS.parent / 'tools/dataset_tools/measure_statistics.py'
BASES = CONFIGS / '_base_/datasets'
SIZE = 32


@pytest.fixture(autouse=True)
def caches(tmp_path_factory, monkeypatch):
    """Keep what datasets cache out of the user's home."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('caches')))


@pytest.fixture
def tool(monkeypatch, capsys):
    """Run the tool; return its print-out, mean and standard deviation."""
    monkeypatch.setenv('LOCAL_RANK', '0')

    def run(config, *arguments):
        monkeypatch.setattr(sys, 'argv', [str(PATH), *map(str, (config, *arguments))])
        runpy.run_path(str(PATH), run_name='__main__')
        out = capsys.readouterr().out
        numbers = [
            [float(x) for x in re.search(rf'{name}=\[(.*)\],', out)[1].split(', ')]
            for name in ('mean', 'std')
        ]
        return out, *numbers

    return run


def write(path, seed, height=SIZE, width=SIZE):
    """Write an image whose channels differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.RandomState(seed).randint(0, 256, (height, width, 3))
    image = (image * [0.2, 0.5, 0.9] + 10).astype(np.uint8)
    cv2.imwrite(str(path), image)


def check(found, images, rgb):
    """Compare with numpy over the pixels of all images."""
    images = [image[..., ::-1] if rgb else image for image in images]
    pixels = np.concatenate([image.reshape(-1, image.shape[2]) for image in images])
    out, mean, std = found
    assert f'{len(images):,} images, {len(pixels):,} pixels' in out
    assert mean == pytest.approx(pixels.mean(0), abs=0.00501)
    assert std == pytest.approx(pixels.std(0), abs=0.00501)


@pytest.fixture
def tiny(tmp_path):
    """Two classes of 33 images, and three to validate."""
    root = tmp_path / 'tiny'
    for label, wnid in enumerate(('n01', 'n02')):
        for i in range(33):
            write(root / f'train/{wnid}/images/{i}.JPEG', 100 * label + i)
    for i in range(3):
        write(root / f'val/images/{i}.JPEG', 1000 + i)
    lines = [f'{i}.JPEG\tn01\n' for i in range(3)]
    (root / 'val/val_annotations.txt').write_text(''.join(lines))
    (root / 'wnids.txt').write_text('n01\nn02')
    (root / 'words.txt').write_text('n01\ta\nn02\tb\n')
    return root


def tiny_options(root):
    parts = ('train', 'val', 'test')
    return '--cfg-options', *(f'{p}_dataloader.dataset.data_root={root}' for p in parts)


def read(paths):
    return [cv2.imread(str(path)) for path in paths]


@pytest.mark.parametrize(
    ('options', 'split', 'files'),
    [
        (('--workers', 0), 'train', 'train/*/images/*'),
        (('--workers', 2), 'train', 'train/*/images/*'),
        (('--split', 'test'), 'test', 'val/images/*'),
    ],
)
def test_tiny_imagenet(tool, tiny, options, split, files):
    found = tool(BASES / 'tinyimagenet.py', *options, *tiny_options(tiny))
    check(found, read(tiny.glob(files)), rgb=True)
    assert found[1] == sorted(found[1], reverse=True)  # red is the brightest
    assert found[0].startswith(f'# {split}: ')


def test_the_size_of_the_config(tool, tiny):
    found = tool(BASES / 'tinyimagenet_64px.py', *tiny_options(tiny))
    images = [
        cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)
        for image in read(tiny.glob('train/*/images/*'))
    ]
    check(found, images, rgb=True)


def test_cifar100_is_rgb_already(tool, tmp_path, monkeypatch):
    planes = np.random.RandomState(0).randint(0, 256, (5, 3, 1024))
    planes = (planes * np.array([0.9, 0.5, 0.2])[:, None]).astype(np.uint8)
    folder = tmp_path / 'cifar-100-python'
    folder.mkdir()
    lists = {}
    for name in ('train', 'test'):
        content = pickle.dumps(dict(data=planes.reshape(5, -1), fine_labels=[0] * 5))
        (folder / name).write_bytes(content)
        lists[name] = [[name, md5(content).hexdigest()]]
        monkeypatch.setattr(CIFAR100, f'{name}_list', lists[name])
    option = f'train_dataloader.dataset.data_root={tmp_path}'
    found = tool(BASES / 'cifar100.py', '--cfg-options', option)
    check(found, list(planes.transpose(0, 2, 1)[:, None]), rgb=False)
    assert found[1] == sorted(found[1], reverse=True)


CUSTOM = """
data_preprocessor = dict(mean=[0.0], std=[1.0]{rgb})
train_dataloader = dict(dataset={dataset})
"""


@pytest.fixture
def custom(tmp_path):
    """Write a config of images of two sizes, with a pipeline that would distort."""
    for i, (height, width) in enumerate([(12, 20), (8, 8), (30, 7)]):
        write(tmp_path / f'images/{"ab"[i % 2]}/{i}.png', i, height, width)

    def make(rgb=', to_rgb=True', wrap='{}', **load):
        pipeline = [
            dict(type='LoadImageFromFile', **load),
            dict(type='RandomResizedCrop', scale=8),
            dict(type='ColorJitter', brightness=0.9),
            dict(type='PackInputs'),
        ]
        dataset = dict(
            type='CustomDataset', data_root=str(tmp_path / 'images'), pipeline=pipeline
        )
        text = CUSTOM.format(rgb=rgb, dataset=wrap.format(dataset))
        (tmp_path / 'config.py').write_text(text)
        return tmp_path / 'config.py'

    return make


@pytest.mark.parametrize('option', [', to_rgb=True', ', to_rgb=False', ''])
def test_the_channels_are_in_the_order_of_the_config(tool, custom, tmp_path, option):
    images = read(tmp_path.glob('images/*/*'))
    check(tool(custom(option)), images, rgb='True' in option)


def test_grey_images(tool, custom, tmp_path):
    images = [
        cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)[..., None]
        for path in tmp_path.glob('images/*/*')
    ]
    check(tool(custom('', color_type='grayscale')), images, rgb=False)


def test_a_wrapped_dataset(tool, custom, tmp_path):
    wrap = "dict(type='RepeatDataset', times=2, dataset={})"
    images = read(tmp_path.glob('images/*/*'))
    check(tool(custom(wrap=wrap)), images * 2, rgb=True)


def test_images_of_other_numbers_are_refused(tool, custom):
    with pytest.raises(ValueError, match=r"`dataset\.pipeline` = 'float32'.*uint8"):
        tool(custom(to_float32=True))


def test_a_config_without_this_split(tool, custom):
    with pytest.raises(ValueError, match='`val_dataloader` = None'):
        tool(custom(), '--split', 'val')


def test_the_sums_are_exact():
    """Numbers at which double precision would lose the variance."""
    statistics = runpy.run_path(str(PATH))['statistics']
    pixels = 10**15
    values = 255 * pixels - 1
    mean, std = statistics([pixels, values, 255 * 255 * pixels - 509])
    # All pixels are 255, and one of them 254.
    assert mean == [255.0]
    assert std == pytest.approx([(1 / pixels) ** 0.5], rel=1e-6)
