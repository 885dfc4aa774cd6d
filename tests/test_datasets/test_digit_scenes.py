import numpy as np
import pytest
from mmengine.registry import DATASETS
from sklearn.datasets import load_digits

from cakd_mm.datasets import DigitScenes, DigitScenesPixels


def items(kind=DigitScenes, **options):
    options.setdefault('scenes', 40)
    data = kind(**options)
    return [data[i] for i in range(len(data))]


def same(one, other):
    return all(
        np.array_equal(a['img'], b['img'])
        and a['instances'] == b['instances']
        and np.array_equal(a['gt_seg_map'], b['gt_seg_map'])
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize('split', ['train', 'test'])
def test_boxes_masks_and_maps_say_the_same(split):
    for item in items(split=split, size=48):
        assert item['img'].shape == (48, 48, 3)
        assert item['img'].dtype == item['gt_seg_map'].dtype == np.uint8
        assert (item['img'] == item['img'][..., :1]).all()
        assert (item['height'], item['width']) == (48, 48)
        left = item['gt_seg_map'].copy()
        for instance in item['instances']:
            runs, kinds = instance['mask']['counts'], [False, True]
            flat = np.repeat([kinds[i % 2] for i in range(len(runs))], runs)
            mask = flat.reshape(48, 48).T
            x1, y1, x2, y2 = map(int, instance['bbox'])
            # Tight: all of the mask is in the box, and each edge touches it.
            assert mask.sum() == mask[y1:y2, x1:x2].sum() > 0
            for edge in (mask[y1], mask[y2 - 1], mask[:, x1], mask[:, x2 - 1]):
                assert edge.any()
            assert (left[mask] == instance['bbox_label'] + 1).all()
            left[mask] = 0
        assert not left.any()


def test_a_scene_depends_on_seed_and_number_alone():
    scenes = items()
    assert same(scenes, items())
    assert same(scenes[:7], items(scenes=7))
    assert [item['img_id'] for item in scenes] == list(range(40))
    assert not any(same([a], [b]) for a, b in zip(scenes, items(seed=1), strict=True))
    assert not any(same([a], [b]) for a, b in zip(scenes, scenes[1:], strict=False))


def test_splits_and_ranges_differ_in_all_that_is_drawn():
    def counts(**options):
        small = items(sides=(8, 8), objects=(1, 9), **options)
        return [len(item['instances']) for item in small]

    drawn = [counts(), counts(split='test'), counts(scans=(500, 1000))]
    for index, one in enumerate(drawn):
        for other in drawn[:index]:
            assert sum(a == b for a, b in zip(one, other, strict=True)) < 20


@pytest.mark.parametrize(
    ('options', 'part'),
    [
        (dict(), slice(0, 1000)),
        (dict(split='test'), slice(1000, 1797)),
        (dict(scans=(800, 1000)), slice(800, 1000)),
        (dict(split='test', scans=(3, 4)), slice(1003, 1004)),
    ],
)
def test_scenes_are_composed_of_the_scans_of_their_split(monkeypatch, options, part):
    seen = {}

    def look(scans, labels, *rest):
        seen.update(scans=scans, labels=labels)
        return genuine(scans, labels, *rest)

    from cakd_mm.datasets import digit_scenes

    genuine = digit_scenes.compose
    monkeypatch.setattr(digit_scenes, 'compose', look)
    DigitScenes(scenes=1, **options)
    source = load_digits()
    grey = np.rint(seen['scans'] / 255.0 * 16)
    assert np.array_equal(grey, source.images[part])
    assert np.array_equal(seen['labels'], source.target[part])


def test_classes_are_ten_and_with_the_background_eleven():
    digits = tuple('0123456789')
    assert DigitScenes(scenes=1).metainfo['classes'] == digits
    pixels = DigitScenesPixels(scenes=1)
    assert pixels.metainfo['classes'] == ('background', *digits)
    assert len({tuple(colour) for colour in pixels.metainfo['palette']}) == 11
    assert same(items(), items(DigitScenesPixels))
    # Each class is there as often as the scans have it, which is about a tenth.
    labels = [i['bbox_label'] for item in items(scenes=300) for i in item['instances']]
    counts = np.bincount(labels, minlength=10)
    assert len(counts) == 10
    assert (abs(counts - len(labels) / 10) < 4 * np.sqrt(len(labels) * 0.09)).all()


def test_counts_and_sides_are_those_asked_for():
    scenes = items(objects=(3, 3), sides=(20, 20), size=96)
    assert {len(item['instances']) for item in scenes} == {3}
    heights = [i['bbox'][3] - i['bbox'][1] for x in scenes for i in x['instances']]
    assert 15 <= min(heights) <= max(heights) <= 20
    assert np.median(heights) >= 18  # nearly all digits are as high as their scan


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(split='val'), r"`dataset.split` = 'val': .*Write 'train' or 'test'"),
        (dict(scenes=0), r'`dataset.scenes` = 0: .*Write one from 1 on'),
        (dict(size=7), r'`dataset.size` = 7: .*Write one from 8 on'),
        (dict(seed=-1), r'`dataset.seed` = -1: .*Write one from 0 on'),
        (dict(objects=(0, 2)), r'`dataset.objects` = \(0, 2\): .*from 1 on'),
        (dict(objects=(3, 2)), r'`dataset.objects` = \(3, 2\): .*the smaller first'),
        (dict(sides=(7, 20)), r'`dataset.sides` = \(7, 20\): .*from 8 to 64'),
        (dict(sides=(20, 65)), r'`dataset.sides` = \(20, 65\): .*from 8 to 64'),
        (dict(sides=(1, 2, 3)), r'`dataset.sides` = \(1, 2, 3\): .*Write two'),
        (dict(scans=(0, 1001)), r'`dataset.scans` = \(0, 1001\): .*from 0 to 1000'),
        (dict(scans=(5, 5)), r'`dataset.scans` = \(5, 5\): .*the smaller first'),
        (dict(split='test', scans=(0, 798)), r'\(0, 798\): .*from 0 to 797'),
    ],
)
def test_settings_out_of_range_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        DigitScenes(**{'scenes': 1, **options})


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_bare_names_are_found_from_mmdet_and_mmseg(scope):
    registry = pytest.importorskip(f'{scope}.registry').DATASETS
    for kind in (DigitScenes, DigitScenesPixels):
        assert registry.get(kind.__name__) is kind
        assert DATASETS.get(kind.__name__) is kind


def test_mmdet_reads_boxes_and_masks():
    pytest.importorskip('mmdet')
    data = DigitScenes(
        scenes=3,
        pipeline=[
            dict(type='mmdet.LoadImageFromNDArray'),
            dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='mmdet.Resize', scale=(128, 128)),
            dict(type='mmdet.PackDetInputs'),
        ],
    )
    raw = items(scenes=3)
    for index, item in enumerate(raw):
        read = data[index]
        assert read['inputs'].shape == (3, 128, 128)
        found = read['data_samples'].gt_instances
        boxes = [instance['bbox'] for instance in item['instances']]
        assert np.array_equal(found.bboxes.numpy(), 2 * np.array(boxes))
        labels = [instance['bbox_label'] for instance in item['instances']]
        assert found.labels.tolist() == labels
        small = found.masks.resize((64, 64)).masks
        wanted = np.where(small.any(0), small.argmax(0), -1)
        names = np.append(np.array(labels) + 1, 0)[wanted]
        assert (names == item['gt_seg_map']).mean() > 0.99


def test_mmseg_reads_the_map():
    pytest.importorskip('mmseg')
    pipeline = [
        dict(type='mmseg.LoadImageFromNDArray'),
        dict(type='mmseg.PackSegInputs'),
    ]
    read = DigitScenesPixels(scenes=1, pipeline=pipeline)[0]
    [item] = items(scenes=1)
    assert np.array_equal(read['inputs'][0], item['img'][..., 0])
    sample = read['data_samples'].gt_sem_seg.data
    assert np.array_equal(sample[0], item['gt_seg_map'])
