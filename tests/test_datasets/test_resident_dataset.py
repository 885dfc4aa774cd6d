import copy
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS
from torch.utils.data import DataLoader

from cakd_mm.datasets import Digits, LabelBatch, ResidentDataset
from cakd_mm.datasets import resident_dataset as module
from cakd_mm.datasets.resident_dataset import resident_collate

RESIZE = dict(type='Resize', scale=16)
CROP = dict(type='RandomCrop', crop_size=16, padding=2)
FLIP = dict(type='RandomFlip', prob=0.5)
PACK = dict(type='PackInputs')
READ = dict(type='LoadImageFromFile')


def digits(*pipeline, count=20, **options):
    return Digits(indices=count, pipeline=[*pipeline, PACK], **options)


@DATASETS.register_module(force=True)
class TestPictures(BaseDataset):
    """Images in files, of any size and with any labels."""

    __test__ = False

    def __init__(self, data_root, labels, **kwargs):
        self.labels = labels
        super().__init__(data_root=str(data_root), ann_file='', **kwargs)

    def load_data_list(self):
        names = range(len(self.labels))
        infos = [dict(img_path=f'{self.data_root}/{name}.png') for name in names]
        for info, label in zip(infos, self.labels, strict=True):
            info.update({} if label is None else dict(gt_label=label))
        return infos


def paint(root, sizes, when=1_600_000_000):
    """Write images, so long ago that they can be kept."""
    rng = np.random.default_rng(0)
    for name, (height, width) in enumerate(sizes):
        file = str(root / f'{name}.png')
        if os.path.exists(file):
            continue
        cv2.imwrite(file, rng.integers(0, 256, (height, width, 3), np.uint8))
        os.utime(file, (when, when))


@pytest.fixture
def pictures(tmp_path):
    """Make a dataset of four images in files."""
    folder = tmp_path / 'pictures'
    folder.mkdir()

    def make(*pipeline, sizes=((6, 5),) * 4, labels=(3, 1, 0, 2), **reading):
        paint(folder, sizes)
        steps = [dict(READ, **reading), *pipeline, PACK]
        return TestPictures(folder, labels, pipeline=steps)

    return make


def everything(dataset, epoch=0, **options):
    """Return the inputs of all images, in their order."""
    dataset.epoch.fill_(epoch)
    loader = DataLoader(dataset, collate_fn=resident_collate, **options)
    return torch.cat([batch['inputs'] for batch in loader])


def test_without_random_transforms_items_are_the_ordinary_ones(pictures):
    for ordinary in (digits(RESIZE), digits(), pictures(), pictures(RESIZE)):
        data = ResidentDataset(ordinary)
        assert len(data) == len(ordinary)
        for index in range(len(data)):
            found, expected = data[index], ordinary[index]
            assert found['inputs'].is_contiguous()
            assert torch.equal(found['inputs'], expected['inputs'])
            sample, other = found['data_samples'], expected['data_samples']
            assert torch.equal(sample.gt_label, other.gt_label)
            assert sample.sample_idx == other.sample_idx == index
            assert sample.get('img_path') == other.get('img_path')


def test_a_random_item_is_a_window_of_the_ordinary_image():
    data = ResidentDataset(digits(RESIZE, CROP, FLIP), seed=1)
    whole = ResidentDataset(digits(RESIZE))
    draws = data._draws()
    for index in range(len(data)):
        padded = torch.nn.functional.pad(whole[index]['inputs'], (2, 2, 2, 2))
        top, left = draws.top[index], draws.left[index]
        window = padded[:, top : top + 16, left : left + 16]
        window = window.flip(2) if draws.flips[index] else window
        assert torch.equal(data[index]['inputs'], window)


def test_a_batch_is_its_items():
    data = ResidentDataset(digits(RESIZE, CROP, FLIP))
    indices = [7, 0, 19, 7]
    batch = data.__getitems__(indices)
    items = [data[index] for index in indices]
    assert batch['inputs'].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch['inputs'], torch.stack([x['inputs'] for x in items]))
    samples = batch['data_samples']
    assert isinstance(samples, LabelBatch)
    assert samples.sample_idx.tolist() == indices
    labels = [int(x['data_samples'].gt_label) for x in items]
    assert samples.gt_label.tolist() == labels
    assert labels == digits().get_gt_labels()[indices].tolist()
    assert 'img_path' not in samples


def test_numbers_depend_on_seed_epoch_and_index_alone():
    data = ResidentDataset(digits(RESIZE, CROP, FLIP), seed=3)
    first = everything(data, batch_size=8)
    assert torch.equal(everything(data, batch_size=3), first)
    assert torch.equal(everything(copy.deepcopy(data), batch_size=20), first)
    assert torch.equal(data.__getitems__([4, 2])['inputs'], first[[4, 2]])
    other = everything(data, epoch=1, batch_size=8)
    assert not torch.equal(other, first)
    assert torch.equal(everything(data, epoch=0, batch_size=8), first)
    data.seed = 4
    assert not torch.equal(everything(data, batch_size=8), first)
    again = ResidentDataset(digits(RESIZE, CROP, FLIP), seed=4)
    assert torch.equal(everything(again, batch_size=8), everything(data, batch_size=8))


def test_with_workers_all_the_same():
    data = ResidentDataset(digits(RESIZE, CROP, FLIP))
    options = dict(batch_size=8, num_workers=2, persistent_workers=True)
    loader = DataLoader(data, collate_fn=resident_collate, **options)
    for epoch in range(2):
        found = torch.cat([batch['inputs'] for batch in loader])
        assert torch.equal(found, everything(data, epoch, batch_size=8))
        data.epoch.fill_(epoch + 1)


def test_a_negative_index_and_none():
    data = ResidentDataset(digits(RESIZE, CROP))
    assert torch.equal(data[-1]['inputs'], data[19]['inputs'])
    assert data[-1]['data_samples'].sample_idx == 19
    with pytest.raises(IndexError):
        data[20]


def test_everything_else_is_the_wrapped_dataset():
    ordinary = digits(RESIZE, CROP)
    data = ResidentDataset(ordinary)
    assert data.CLASSES == ordinary.CLASSES
    assert data.metainfo == ordinary.metainfo
    assert data.get_gt_labels().tolist() == ordinary.get_gt_labels().tolist()
    assert data.get_gt_labels().dtype == np.int64
    assert data.pipeline is ordinary.pipeline
    # Which is as it was.
    assert len(ordinary.pipeline.transforms) == 3
    assert ordinary[0]['inputs'].shape == (3, 16, 16)


@pytest.mark.parametrize('serialize_data', [True, False])
def test_images_are_in_memory_once(serialize_data):
    """A dataset of our own lets go of its pixels, and of nothing else."""
    options = dict(pipeline=[RESIZE, PACK], serialize_data=serialize_data)
    config = dict(type='Digits', _scope_='mmpretrain', indices=20, **options)
    ordinary = digits(RESIZE, serialize_data=serialize_data)
    data, other = ResidentDataset(config), ResidentDataset(ordinary)
    for index in (0, 3, 19):
        kept, whole = (d.get_data_info(index) for d in (data, ordinary))
        assert whole.pop('img').shape == (8, 8, 3)
        assert kept == whole
        assert torch.equal(data[index]['inputs'], ordinary[index]['inputs'])
    assert (len(data), data.get_gt_labels().tolist()) == (
        20,
        ordinary.get_gt_labels().tolist(),
    )
    assert torch.equal(everything(data), everything(other))


def test_mmengines_loader_takes_a_slice_of_it():
    config = dict(type='ResidentDataset', dataset=digits(RESIZE, CROP))
    loader = Runner.build_dataloader(
        dict(
            dataset=config,
            batch_size=4,
            num_batch_per_epoch=2,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='resident_collate'),
        )
    )
    batches = list(loader)
    assert [batch['inputs'].shape[0] for batch in batches] == [4, 4]
    assert batches[1]['data_samples'].sample_idx.tolist() == [4, 5, 6, 7]


# What is refused


@pytest.mark.parametrize('labels', [(1, 0, 2, [1, 2]), (1, None, 2, 0), (0.5, 1, 2, 3)])
def test_labels_other_than_one_class(pictures, labels):
    with pytest.raises(ValueError, match='Image [013] has the label .*resident=False'):
        ResidentDataset(pictures(labels=labels))


def test_images_of_several_sizes(pictures):
    sizes = ((6, 5), (6, 5), (5, 6), (6, 5))
    match = r'\(6, 5\) and \(5, 6\) pixels.*image 2 has.*Resize them.*resident=False'
    with pytest.raises(ValueError, match=match):
        ResidentDataset(pictures(sizes=sizes))
    assert ResidentDataset(pictures(RESIZE, sizes=sizes)).images.shape[1] == 16


def test_images_of_floats(pictures):
    ordinary = pictures(to_float32=True)
    with pytest.raises(ValueError, match='float32.*Image 0 is kept as uint8'):
        ResidentDataset(ordinary)
    assert len(ordinary.pipeline.transforms) == 2  # as before


@pytest.mark.parametrize('kind', ['ConcatDataset', 'RepeatDataset'])
def test_sets_of_sets(kind):
    inner = dict(type='Digits', _scope_='mmpretrain', pipeline=[PACK], indices=4)
    concat = dict(datasets=[inner])
    options = concat if 'Concat' in kind else dict(times=2, dataset=inner)
    with pytest.raises(ValueError, match=f'{kind}.*Only one dataset with a pipeline'):
        ResidentDataset(dict(type=kind, **options))


def test_a_pipeline_set_from_outside():
    data = ResidentDataset(digits(RESIZE, CROP))
    with pytest.raises(ValueError, match='cannot be switched. Remove SwitchRecipeHook'):
        data.pipeline = [PACK]


# The cache


@pytest.fixture
def decoded(monkeypatch):
    """How often images were decoded."""
    calls, decode = [], ResidentDataset._decode

    def note(self):
        calls.append(self)
        return decode(self)

    monkeypatch.setattr(ResidentDataset, '_decode', note)
    return calls


def test_files_are_decoded_once(pictures, decoded, caches):
    for _ in range(2):  # neither images that are no files, nor where none is wanted
        ResidentDataset(digits(RESIZE))
        ResidentDataset(pictures(), cache_dir=None)
    assert len(decoded) == 4
    assert not caches.exists()
    decoded.clear()
    first = ResidentDataset(pictures(RESIZE, CROP))
    again = ResidentDataset(pictures(RESIZE, FLIP))  # random parts do not matter
    assert len(decoded) == 1
    assert torch.equal(first.images, again.images)
    assert len(list(caches.glob('images-*.bin'))) == 1


def test_a_cache_that_is_cut_while_it_is_in_use(pictures, caches):
    data = ResidentDataset(pictures())
    copied = copy.deepcopy(data)
    [file] = caches.glob('images-*.bin')
    os.truncate(file, 10)
    with pytest.raises(OSError, match='`cache_dir` = .* cut while it was in use'):
        data[0]
    assert torch.equal(copied[0]['inputs'], pictures()[0]['inputs'])


def test_another_fixed_part_is_decoded_anew(pictures, decoded, monkeypatch):
    ResidentDataset(pictures(RESIZE))
    ResidentDataset(pictures(dict(RESIZE, interpolation='area')))
    ResidentDataset(pictures(dict(type='Resize', scale=15)))
    ResidentDataset(pictures())
    assert len(decoded) == 4
    monkeypatch.setattr(module, 'VERSIONS', ['cv2 0.0'])
    ResidentDataset(pictures())
    assert len(decoded) == 5


def test_labels_are_the_datasets_not_the_caches(pictures, decoded):
    ResidentDataset(pictures())
    other = ResidentDataset(pictures(labels=(0, 0, 1, 1)))
    assert len(decoded) == 1
    assert other.get_gt_labels().tolist() == [0, 0, 1, 1]


def test_grey_images(pictures):
    ordinary = pictures(RESIZE, CROP, color_type='grayscale')
    data = ResidentDataset(ordinary)
    batch = data.__getitems__([0, 3])
    assert batch['inputs'].shape == (2, 1, 16, 16)
    assert ordinary[0]['inputs'].shape == (1, 16, 16)


def test_paths_are_kept(pictures):
    data = ResidentDataset(pictures())
    paths = [data.dataset.get_data_info(i)['img_path'] for i in (2, 0)]
    assert data.__getitems__([2, 0])['data_samples'].img_path == paths


@pytest.mark.parametrize('clone', [copy.deepcopy, pickle.dumps])
def test_copies(clone):
    data = ResidentDataset(digits(RESIZE, CROP), seed=7)
    data.epoch.fill_(2)
    other = clone(data)
    other = pickle.loads(other) if isinstance(other, bytes) else other
    assert (other.seed, int(other.epoch)) == (7, 2)
    assert torch.equal(other[3]['inputs'], data[3]['inputs'])


def test_an_unreadable_image_that_is_let_pass(pictures):
    """`ignore_empty` would put another image in its place."""
    ordinary = pictures(ignore_empty=True)
    Path(ordinary.data_root, '2.png').unlink()
    with pytest.raises(ValueError, match='NoneType.*Image 2 is kept as uint8'):
        ResidentDataset(ordinary)
