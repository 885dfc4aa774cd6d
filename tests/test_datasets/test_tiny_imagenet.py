import shutil
import subprocess
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from goldens import SHARED
from mmengine.config import Config
from mmengine.registry import DefaultScope
from tiny import CONFIGS

from cakd_mm.datasets import TinyImageNet

ARCHIVE = SHARED / 'data' / 'tiny-imagenet-200-32px.tar.xz'
WNIDS = ('n03', 'n01', 'n02')  # not in order, as in the archive
SIZE = 12


def write_image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.RandomState(seed).randint(0, 256, (SIZE, SIZE, 3), np.uint8)
    cv2.imwrite(str(path), image)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three classes with two training images each and one to validate."""
    root = tmp_path / 'tiny'
    annotations = []
    for label, wnid in enumerate(WNIDS):
        for i in range(2):
            image = root / 'train' / wnid / 'images' / f'{wnid}_{i}.JPEG'
            write_image(image, 10 * label + i)
        write_image(root / 'val' / 'images' / f'val_{label}.JPEG', 10 * label + 5)
        annotations.append(f'val_{label}.JPEG\t{wnid}\t0\t0\t5\t5\n')
        (root / 'train' / wnid / f'{wnid}_boxes.txt').touch()
    (root / 'val' / 'val_annotations.txt').write_text(''.join(annotations))
    (root / 'wnids.txt').write_text('\n'.join(WNIDS))
    (root / 'words.txt').write_text(
        'n00\tentity\nn01\tgoldfish, Carassius auratus\nn02\tcrane\nn03\tcrane\n'
    )
    return root


def labelled(data):
    items = [data.get_data_info(i) for i in range(len(data))]
    return [(Path(item['img_path']).name, item['gt_label']) for item in items]


def test_training_images_have_the_place_of_their_class_among_the_sorted(folder):
    data = TinyImageNet(str(folder))
    assert labelled(data) == [
        (f'{wnid}_{i}.JPEG', label)
        for label, wnid in enumerate(sorted(WNIDS))
        for i in range(2)
    ]
    info = data.get_data_info(0)
    assert Path(info['img_path']) == folder / 'train/n01/images/n01_0.JPEG'
    assert data.get_gt_labels().tolist() == [0, 0, 1, 1, 2, 2]


def test_validation_images_have_the_class_of_their_annotation(folder):
    data = TinyImageNet(str(folder), split='val')
    assert labelled(data) == [('val_0.JPEG', 2), ('val_1.JPEG', 0), ('val_2.JPEG', 1)]


@pytest.mark.parametrize('split', ['train', 'val'])
def test_classes_have_their_names_in_the_order_of_the_labels(folder, split):
    data = TinyImageNet(str(folder), split=split)
    names = ('goldfish, Carassius auratus', 'crane', 'crane')
    assert data.CLASSES == data.metainfo['classes'] == names
    renamed = TinyImageNet(str(folder), split=split, classes=['a', 'b', 'c'])
    assert renamed.CLASSES == ('a', 'b', 'c')
    assert split in repr(data)


def test_indices_and_pipeline_work_as_in_mmpretrain(folder):
    data = TinyImageNet(
        str(folder),
        split='val',
        indices=[2, 0],
        pipeline=[
            dict(type='mmpretrain.LoadImageFromFile'),
            dict(type='mmpretrain.PackInputs'),
        ],
    )
    assert len(data) == 2
    item = data[0]
    assert item['data_samples'].gt_label.item() == 1
    want = cv2.imread(str(folder / 'val/images/val_2.JPEG')).transpose(2, 0, 1)
    assert np.array_equal(item['inputs'].numpy(), want)


def test_the_home_folder_may_be_written_short(folder, monkeypatch):
    monkeypatch.setenv('HOME', str(folder.parent))
    assert len(TinyImageNet('~/tiny')) == 6


@pytest.mark.parametrize('split', ['test', 'Train', None])
def test_an_unknown_split_is_named(folder, split):
    match = rf"`dataset.split` = {split!r}: .*Write 'train' or 'val'"
    with pytest.raises(ValueError, match=match):
        TinyImageNet(str(folder), split=split)


def test_a_missing_folder_is_named(tmp_path):
    match = r'`dataset.data_root` = .*There is no .*nowhere\. .*unpacked'
    with pytest.raises(FileNotFoundError, match=match):
        TinyImageNet(str(tmp_path / 'nowhere'))


@pytest.mark.parametrize(
    ('split', 'name'),
    [
        ('train', 'wnids.txt'),
        ('val', 'wnids.txt'),
        ('train', 'words.txt'),
        ('train', 'train'),
        ('val', 'val/images'),
        ('val', 'val/val_annotations.txt'),
    ],
)
def test_a_missing_part_is_named(folder, split, name):
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    match = f'`dataset.data_root` = .*There is no .*{name}'
    with pytest.raises(FileNotFoundError, match=match):
        TinyImageNet(str(folder), split=split)


@pytest.mark.parametrize('gone', ['train/n02', 'train/n02/images'])
def test_a_class_without_images_is_named(folder, gone):
    shutil.rmtree(folder / gone)
    with pytest.raises(ValueError, match=r'train has no images of n02 \(1 in all\)'):
        TinyImageNet(str(folder))
    assert len(TinyImageNet(str(folder), split='val')) == 3


def test_an_emptied_class_is_named(folder):
    for path in folder.glob('train/*/images/*'):
        path.unlink()
    with pytest.raises(ValueError, match=r'n01, n02, n03 \(3 in all\)'):
        TinyImageNet(str(folder))


def test_a_class_without_name_is_named(folder):
    (folder / 'words.txt').write_text('n01\tgoldfish\n\nn03\tcrane\n')
    with pytest.raises(ValueError, match=r'words.txt has no name for n02 \(1 in all\)'):
        TinyImageNet(str(folder))


def test_an_image_without_annotation_is_named(folder):
    write_image(folder / 'val/images/val_9.JPEG', 0)
    match = r'val_annotations.txt lacks val_9.JPEG \(1 in all\)'
    with pytest.raises(ValueError, match=match):
        TinyImageNet(str(folder), split='val')


def test_an_annotation_without_image_is_named(folder):
    (folder / 'val/images/val_1.JPEG').unlink()
    with pytest.raises(ValueError, match=r'val/images lacks val_1.JPEG \(1 in all\)'):
        TinyImageNet(str(folder), split='val')


@pytest.mark.parametrize('line', ['val_2.JPEG\tn99\t0\t0\t5\t5', 'val_2.JPEG'])
def test_an_annotation_of_no_class_is_named(folder, line):
    path = folder / 'val/val_annotations.txt'
    path.write_text('\n'.join([*path.read_text().splitlines()[:2], line]))
    with pytest.raises(ValueError, match='no class of wnids.txt to val_2.JPEG'):
        TinyImageNet(str(folder), split='val')


@pytest.mark.skipif(not ARCHIVE.is_file(), reason=f'no {ARCHIVE} (CAKD_SHARED)')
@pytest.mark.skipif(not shutil.which('tar'), reason='no tar: tarfile takes 20 s')
def test_the_archive_through_the_shipped_config(tmp_path):
    trained = ('n01443537', 'n12267677')  # all of them would be 100,000 files
    parts = ('wnids.txt', 'words.txt', 'val', *(f'train/{wnid}' for wnid in trained))
    subprocess.run(['tar', 'xJf', ARCHIVE, '-C', tmp_path, *parts], check=True)
    cfg = Config.fromfile(CONFIGS / '_base_/datasets/tinyimagenet.py')

    def dataset(loader):
        options = cfg[loader].dataset.to_dict()
        assert options.pop('type') == 'TinyImageNet'
        options['data_root'] = str(tmp_path)
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            return TinyImageNet(**options)

    data = dataset('val_dataloader')
    labels = data.get_gt_labels().tolist()
    assert Counter(labels) == dict.fromkeys(range(200), 50)
    assert data.CLASSES[0] == 'goldfish, Carassius auratus'
    # The pipeline of evaluation leaves the pixels as they are.
    pixels = cv2.imread(data.get_data_info(0)['img_path']).transpose(2, 0, 1)
    assert np.array_equal(data[0]['inputs'].numpy(), pixels)
    with pytest.raises(ValueError, match=r'no images of .* \(198 in all\)'):
        dataset('train_dataloader')
    (tmp_path / 'wnids.txt').write_text('\n'.join(trained))
    data = dataset('train_dataloader')
    assert data.get_gt_labels().tolist() == [0] * 500 + [1] * 500
    assert data[0]['inputs'].shape == (3, 32, 32)
