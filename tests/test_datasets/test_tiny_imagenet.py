import os
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
from torch.utils.data import DataLoader

from cakd_mm.datasets import SeededDataset, TinyImageNet

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


def empty(*patterns):
    def change(folder):
        for pattern in patterns:
            for path in folder.glob(pattern):
                path.write_bytes(b'')

    return change


def remove(*patterns):
    def change(folder):
        for pattern in patterns:
            for path in [*folder.glob(pattern)]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def edit(name, old, new):
    def change(folder):
        path = folder / name
        path.write_text(path.read_text().replace(old, new))

    return change


ANNOTATIONS = 'val/val_annotations.txt'
LINE = 'val_1.JPEG\tn01\t0\t0\t5\t5\n'


@pytest.mark.parametrize(
    ('split', 'change', 'problem'),
    [
        ('train', remove('train/n02'), r'train has no images of n02 \(1 in all\)'),
        ('train', edit('words.txt', 'n02', 'n04'), 'words.txt has no name for n02'),
        ('train', empty('wnids.txt'), r'wnids\.txt names no class'),
        ('train', empty('train/n02/images/n02_1.JPEG'), 'Nothing is in .*n02_1.JPEG'),
        ('val', edit(ANNOTATIONS, LINE, ''), 'val_annotations.txt lacks val_1.JPEG'),
        ('val', remove('val/images/val_1.JPEG'), 'val/images lacks val_1.JPEG'),
        ('val', edit(ANNOTATIONS, 'n02', 'n99'), 'no class of wnids.txt to val_2.JPEG'),
        (
            'val',
            lambda folder: (empty(ANNOTATIONS)(folder), remove('val/images/*')(folder)),
            r'val/val_annotations\.txt and val/images are empty',
        ),
    ],
)
def test_what_does_not_belong_together_is_named(folder, split, change, problem):
    change(folder)
    with pytest.raises(ValueError, match=problem):
        TinyImageNet(str(folder), split=split)


def test_a_class_with_fewer_images_is_named(folder):
    (folder / 'train/n02/images/n02_1.JPEG').unlink()
    match = (
        r'`dataset.data_root` = .*Other classes have 2 training images, but fewer have '
        r'n02 \(1 in all\)\. .*unpack the archive anew.*allow_unequal=True'
    )
    with pytest.raises(ValueError, match=match):
        TinyImageNet(str(folder))
    assert len(TinyImageNet(str(folder), allow_unequal=True)) == 5


def test_validation_classes_may_differ_in_size(folder):
    write_image(folder / 'val/images/val_3.JPEG', 0)
    with (folder / 'val/val_annotations.txt').open('a') as file:
        file.write('val_3.JPEG\tn01\t0\t0\t5\t5\n')
    labels = TinyImageNet(str(folder), split='val').get_gt_labels()
    assert labels.tolist() == [2, 0, 1, 0]


class TestBrokenImage:
    """Found when it is read: the scan reads no image."""

    LOAD = dict(type='mmpretrain.LoadImageFromFile')
    PACK = dict(type='mmpretrain.PackInputs')
    # What a decoder returns for a truncated image differs between versions.
    CUTS = dict(text=lambda data: b'no image', most=lambda data: data[:-10])

    @pytest.fixture(params=CUTS)
    def broken(self, folder, request):
        path = folder / 'train/n02/images/n02_1.JPEG'
        path.write_bytes(self.CUTS[request.param](path.read_bytes()))
        return path

    def data(self, folder, *between, **options):
        return TinyImageNet(
            str(folder), pipeline=[self.LOAD, *between, self.PACK], **options
        )

    def match(self, folder, path):
        return (
            rf'`dataset\.data_root` = .*{path} is no whole image: .+\. '
            '.*unpack the archive anew'
        )

    @pytest.mark.parametrize('filled', [True, False])
    def test_is_named(self, folder, broken, monkeypatch, filled):
        """Also by a worker, through a wrapper, and filled up as by OpenCV 4."""
        if filled:
            whole = np.zeros((SIZE, SIZE, 3), np.uint8)
            monkeypatch.setattr('mmcv.imfrombytes', lambda *args, **options: whole)
        data = self.data(folder)
        assert data[2]['inputs'].shape == (3, SIZE, SIZE)
        for items in (
            data,
            self.data(folder, test_mode=True),
            SeededDataset(data, seed=0),
        ):
            with pytest.raises(ValueError, match=self.match(folder, broken)):
                items[3]
        workers = iter(DataLoader(data, num_workers=1, collate_fn=list))
        with pytest.raises(ValueError, match=self.match(folder, broken)):
            list(workers)
        # Python would find it as garbage, together with the queue that it ends the
        # worker by, and wait five seconds for that worker.
        workers._shutdown_workers()
        assert TinyImageNet(str(folder))[3]['gt_label'] == 1  # nothing is read

    @pytest.mark.parametrize('gone', [True, False])
    def test_emptied_or_gone_since_the_scan(self, folder, gone):
        data = self.data(folder)
        path = folder / 'train/n01/images/n01_0.JPEG'
        path.unlink() if gone else path.write_bytes(b'')
        with pytest.raises(ValueError, match=self.match(folder, path)):
            data[0]

    def test_may_be_skipped(self, folder):
        """As mmpretrain does when it is told to, and a transform may do."""
        assert self.data(folder, lambda item: None).prepare_data(0) is None
        load = dict(self.LOAD, ignore_empty=True)
        data = TinyImageNet(str(folder), pipeline=[load])
        (folder / 'train/n02/images/n02_1.JPEG').write_bytes(b'')
        assert data.prepare_data(3) is None

    def test_other_errors_pass_unchanged(self, folder):
        class Failure(Exception):
            pass

        failure = Failure('of a transform')

        def fail(item):
            raise failure

        with pytest.raises(Failure) as caught:
            self.data(folder, fail)[0]
        assert caught.value is failure
        with pytest.raises(KeyError, match='nothing_like_it'):
            self.data(folder, lambda item: item['nothing_like_it'])[0]


class TestCache:
    """What is scanned only once; `test_caching.py` tests the cache itself."""

    @pytest.fixture(autouse=True)
    def settled(self, folder):
        """Nothing has changed for a while."""
        for path in [*folder.rglob('*')]:
            os.utime(path, ns=(10**18, 10**18))

    @pytest.fixture
    def scans(self, monkeypatch):
        """Return the splits scanned so far."""
        seen, scan = [], TinyImageNet._scan

        def counted(data):
            seen.append(data.split)
            return scan(data)

        monkeypatch.setattr(TinyImageNet, '_scan', counted)
        return seen

    def test_gives_the_same_to_each_split(self, folder, scans):
        def build(split, **options):
            data = TinyImageNet(str(folder), split=split, **options)
            items = [data.get_data_info(i) for i in range(len(data))]
            assert type(data.CLASSES) is tuple
            return items, data.metainfo

        for split in ('train', 'val'):
            scans.clear()
            first, again = build(split), build(split)
            assert scans == [split]
            assert first == again == build(split, cache_dir=None)
            assert scans == [split] * 2

    def test_the_same_folder_by_another_name(self, folder, scans, monkeypatch):
        TinyImageNet(str(folder))
        monkeypatch.chdir(folder.parent)
        data = TinyImageNet('tiny')
        assert scans == ['train']
        # The paths are as the root was given.
        assert data.get_data_info(0)['img_path'] == 'tiny/train/n01/images/n01_0.JPEG'

    @pytest.mark.parametrize('old', [True, False])
    def test_another_folder_of_the_same_name(self, folder, scans, old, tmp_path):
        TinyImageNet(str(folder))
        folder.rename(tmp_path / 'moved')
        shutil.copytree(tmp_path / 'moved', folder)  # keeps the times
        for path in folder.glob('train/*/images/*_1.JPEG'):
            path.unlink()
        for path in folder.rglob('*'):
            os.utime(path, ns=(10**18, 10**18)) if old else None
        assert len(TinyImageNet(str(folder))) == 3
        assert scans == ['train'] * 2

    @pytest.mark.parametrize(
        ('split', 'change', 'seen'),
        [
            ('val', edit('val/val_annotations.txt', 'n03', 'n01'), None),
            ('train', edit('words.txt', 'goldfish', 'silvfish'), None),
            ('train', remove('train/*/images/*_1.JPEG'), None),
            ('val', remove('val/images/val_1.JPEG'), r'val/images lacks val_1\.JPEG'),
        ],
    )
    def test_a_change_is_seen(self, folder, scans, split, change, seen):
        before = TinyImageNet(str(folder), split=split)
        change(folder)
        for path in folder.rglob('*.txt'):
            os.utime(path, ns=(10**18, 10**18))
        if seen is not None:
            with pytest.raises(ValueError, match=seen):
                TinyImageNet(str(folder), split=split)
        else:
            after = TinyImageNet(str(folder), split=split)
            found = [(labelled(data), data.CLASSES) for data in (before, after)]
            assert found[0] != found[1]
        assert scans == [split] * 2

    def test_unequal_classes_are_refused_from_the_cache_too(self, folder, scans):
        (folder / 'train/n02/images/n02_1.JPEG').unlink()
        os.utime(folder / 'train/n02/images', ns=(10**18, 10**18))
        TinyImageNet(str(folder), allow_unequal=True)
        with pytest.raises(ValueError, match='fewer have n02'):
            TinyImageNet(str(folder))
        assert scans == ['train']


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
