from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS

from cakd_mm.datasets import DecodedImages

COUNTS = {'ant': 4, 'bee': 6, 'cat': 5}


def write_image(path, seed, height=12, width=10):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.RandomState(seed).randint(0, 256, (height, width, 3), np.uint8)
    cv2.imwrite(str(path), image)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three classes whose images were not written in the order of their names."""
    for label, (name, count) in enumerate(COUNTS.items()):
        for index in reversed(range(count)):
            write_image(tmp_path / 'train' / name / f'{index}.jpg', 10 * label + index)
    return tmp_path


def make(folder, **options):
    return DecodedImages(data_root=str(folder), data_prefix='train', **options)


def listed(data):
    items = [data.get_data_info(index) for index in range(len(data))]
    places = [Path(item['img_path']) for item in items]
    return [
        (f'{place.parent.name}/{place.name}', item['gt_label'])
        for place, item in zip(places, items, strict=True)
    ]


def files(start=0, stop=None):
    return [
        (f'{name}/{index}.jpg', label)
        for label, (name, count) in enumerate(COUNTS.items())
        for index in range(count)[start:stop]
    ]


@pytest.mark.parametrize('part', [(2, 4), [0, 4]])  # 4 is all of the smallest
def test_a_part_of_each_class_in_the_order_of_names(folder, part):
    data = make(folder, per_class=part)
    assert listed(data) == files(*part)
    assert len(data) == 3 * (part[1] - part[0])


def test_the_order_is_that_of_names_whatever_the_annotations_say(folder):
    lines = [f'{name} {label}\n' for name, label in reversed(files())]
    (folder / 'list.txt').write_text(''.join(lines))
    data = make(folder, ann_file='list.txt', per_class=(0, 2))
    assert sorted(listed(data)) == sorted(files(0, 2))


def test_images_are_decoded_to_bgr(folder):
    data = make(folder)
    for index in range(len(data)):
        item = data.get_data_info(index)
        # OpenCV reads in BGR.
        expected = cv2.imread(item['img_path'], cv2.IMREAD_COLOR)
        assert item['img'].dtype == np.uint8
        assert item['img'].shape == (12, 10, 3)
        assert np.array_equal(item['img'], expected)


def test_a_grey_file_has_three_channels(tmp_path):
    (tmp_path / 'train' / 'a').mkdir(parents=True)
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    cv2.imwrite(str(tmp_path / 'train' / 'a' / '0.png'), grey)
    image = make(tmp_path).get_data_info(0)['img']
    assert np.array_equal(image, np.repeat(grey[..., None], 3, axis=2))


def test_the_size_is_reached_by_averaging_areas(tmp_path):
    write_image(tmp_path / 'train' / 'a' / '0.png', 0, height=12, width=8)
    image = cv2.imread(str(tmp_path / 'train' / 'a' / '0.png')).astype(np.float64)
    found = make(tmp_path, size=4).get_data_info(0)['img']
    assert found.shape == (4, 4, 3)
    for row in range(4):
        for column in range(4):
            area = image[3 * row : 3 * row + 3, 2 * column : 2 * column + 2]
            expected = area.mean((0, 1))
            assert np.abs(found[row, column] - expected).max() <= 0.5 + 1e-6


def test_a_pipeline_starts_without_loading(folder, monkeypatch):
    pipeline = [
        dict(type='Resize', scale=16, interpolation='bilinear'),
        dict(type='PackInputs'),
    ]
    cfg = dict(
        type='DecodedImages',
        data_root=str(folder),
        data_prefix='train',
        size=8,
        per_class=(1, 3),
        pipeline=pipeline,
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        data = DATASETS.build(cfg)
    monkeypatch.setattr('mmcv.imread', None)  # nothing is read any more
    for image in folder.rglob('*.jpg'):
        image.unlink()
    packed = [data[index] for index in range(len(data))]
    assert [tuple(item['inputs'].shape) for item in packed] == [(3, 16, 16)] * 6
    labels = [int(item['data_samples'].gt_label) for item in packed]
    assert labels == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(('start', 'stop'), [(0, 5), (2, 2), (-2, 2)])
def test_a_part_that_a_class_does_not_have(folder, start, stop):
    match = (
        rf'`dataset\.per_class` = \({start}, {stop}\): Class 0 has 4 images in .*train'
    )
    with pytest.raises(ValueError, match=match):
        make(folder, per_class=(start, stop))
    for index in (4, 5):
        write_image(folder / 'train' / 'ant' / f'{index}.jpg', index)
    with pytest.raises(ValueError, match='Class 2 has 5 images'):
        make(folder, per_class=(0, 6))


@pytest.mark.parametrize('filled', [True, False])
def test_a_truncated_file(folder, filled, monkeypatch):
    """OpenCV 4 fills it up, 5 refuses it."""
    path = folder / 'train' / 'bee' / '3.jpg'
    path.write_bytes(path.read_bytes()[:-10])
    if filled:
        image = np.zeros((12, 10, 3), np.uint8)
        monkeypatch.setattr('mmcv.imread', lambda path: image)
    match = r"`dataset\.data_root` = '.*bee/3\.jpg'.*no whole one"
    with pytest.raises(ValueError, match=match):
        make(folder)


@pytest.mark.parametrize(
    'content', [b'no image at all', b'\xff\xd8\xff\xe0\x00\x10JFIF']
)
def test_a_file_that_is_no_image_is_refused_if_it_is_in_the_part(folder, content):
    (folder / 'train' / 'bee' / '3.jpg').write_bytes(content)
    match = r"`dataset\.data_root` = '.*bee/3\.jpg'.*no readable image"
    with pytest.raises(ValueError, match=match):
        make(folder)
    assert len(make(folder, per_class=(0, 3))) == 9


def test_a_part_of_a_class_without_images(folder):
    (folder / 'train' / 'zebra').mkdir()
    text = r'`dataset\.per_class` = \(0, 2\): Class 3 has 0 images in '
    with pytest.raises(ValueError, match=text):
        make(folder, per_class=(0, 2))


def test_an_item_does_not_change_the_kept_image(folder):
    data = make(folder)
    before = data.get_data_info(0)['img'].copy()
    data.get_data_info(0)['img'][:] = 0
    assert np.array_equal(data.get_data_info(0)['img'], before)
    assert before.any()
