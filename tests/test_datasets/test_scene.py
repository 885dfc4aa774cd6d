import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cakd_mm.datasets.scene import Scene, compose, run_lengths, shared

OWNER = np.array(
    [
        [-1, -1, -1, -1, -1],
        [-1, 0, 0, -1, 1],
        [-1, 0, -1, -1, 1],
        [-1, -1, -1, -1, 1],
    ]
)


def test_boxes_and_classes_of_a_scene_made_by_hand():
    scene = Scene(np.zeros((4, 5), np.uint8), OWNER, np.array([7, 0]))
    assert scene.box(0) == [1.0, 1.0, 3.0, 3.0]
    assert scene.box(1) == [4.0, 1.0, 5.0, 4.0]
    wanted = np.where(OWNER == 0, 8, np.where(OWNER == 1, 1, 0))
    assert np.array_equal(scene.classes(), wanted)
    assert scene.classes().dtype == np.uint8


def test_run_lengths_by_hand():
    # Down the columns, and first the pixels outside.
    assert run_lengths(OWNER == 0) == dict(size=[4, 5], counts=[5, 2, 2, 1, 10])
    assert run_lengths(OWNER == 1) == dict(size=[4, 5], counts=[17, 3])
    assert run_lengths(OWNER == -1)['counts'] == [0, 5, 2, 2, 1, 7, 3]
    assert run_lengths(np.zeros((2, 3), bool))['counts'] == [6]
    assert run_lengths(np.ones((2, 3), bool))['counts'] == [0, 6]


@given(st.lists(st.booleans(), min_size=12, max_size=12))
@settings(max_examples=50, deadline=None)
def test_coco_reads_the_run_lengths(pixels):
    masks = pytest.importorskip('pycocotools.mask')
    mask = np.array(pixels).reshape(3, 4)
    read = masks.decode(masks.frPyObjects(run_lengths(mask), 3, 4))
    assert np.array_equal(read, mask)


def test_shared_area_by_hand():
    boxes = [[0, 0, 4, 4], [2, 1, 4, 3], [4, 0, 6, 4], [3, 2, 7, 8], [8, 9, 10, 12]]
    wanted = [
        [1, 1, 0, 2 / 16, 0],  # 1 x 2 of 16 pixels, and none with its neighbour
        [1, 1, 0, 1 / 4, 0],
        [0, 0, 1, 4 / 8, 0],
        [2 / 16, 1 / 4, 4 / 8, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    found = shared(np.array(boxes)[:, None], np.array(boxes))
    assert np.array_equal(found, wanted)


def test_noise_has_eight_grey_levels():
    flat = composed(size=128, objects=(1, 1), sides=(8, 8))
    assert flat.image[flat.owner == -1].std() == pytest.approx(8, abs=0.6)


def scans():
    """Three scans of full ink, a bar, a square and a dot, which no blur hides."""
    images = np.zeros((3, 8, 8), np.uint8)
    images[0, :, 3:5] = 255
    images[1, 2:6, 2:6] = 255
    images[2, 4, 4] = 255
    return images, np.array([4, 9, 2])


def composed(seed=0, size=64, objects=(2, 5), sides=(12, 24)):
    return compose(*scans(), size, objects, sides, np.random.default_rng(seed))


@pytest.mark.parametrize('seed', range(20))
def test_objects_are_bright_and_share_little(seed):
    scene = composed(seed)
    assert scene.image.shape == scene.owner.shape == (64, 64)
    assert scene.image.dtype == np.uint8
    assert set(np.unique(scene.owner)) == {-1, *range(len(scene.labels))}
    assert 1 <= len(scene.labels) <= 5
    assert set(scene.labels) <= {4, 9, 2}
    background = np.median(scene.image[scene.owner == -1])
    assert 20 <= background <= 100
    for index in range(len(scene.labels)):
        inside = scene.image[scene.owner == index].mean()
        # 80 levels at least are between full ink and none, and 0.4 is an edge's ink.
        assert inside > background + 0.4 * 80
    boxes = np.array([scene.box(index) for index in range(len(scene.labels))])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for i, one in enumerate(boxes):
        for j, other in enumerate(boxes[:i]):
            width = min(one[2], other[2]) - max(one[0], other[0])
            height = min(one[3], other[3]) - max(one[1], other[1])
            area = max(width, 0) * max(height, 0)
            assert area <= 0.1 * max(min(areas[i], areas[j]), 1) * 1.3


def test_numbers_and_sides_are_drawn_between_their_limits_both_included():
    counts, sides = set(), set()
    for seed in range(60):
        scene = composed(seed, size=96, objects=(1, 3), sides=(8, 10))
        counts.add(len(scene.labels))
        # The bar is as high as its scan.
        boxes = [scene.box(i) for i in np.flatnonzero(scene.labels == 4)]
        sides.update(box[3] - box[1] for box in boxes)
    assert counts == {1, 2, 3}
    assert sides == {8.0, 9.0, 10.0}


def test_objects_reach_all_edges():
    places = [composed(seed, 16, (1, 1), (8, 8)) for seed in range(300)]
    bars = np.array([x.box(0) for x in places if x.labels[0] == 4])
    # The bar is at columns 3 and 4 of 8 and has all rows; nothing of it is cut off.
    assert (bars[:, 1].min(), bars[:, 3].max()) == (0, 16)
    assert (bars[:, 0].min(), bars[:, 2].max()) == (3, 13)
    assert {tuple(x) for x in bars[:, 2:] - bars[:, :2]} == {(2, 8)}


def test_what_finds_no_place_is_left_out():
    """One scan fills the scene, and a second would cover it."""
    full = np.full((1, 8, 8), 255, np.uint8)
    scene = compose(full, np.array([3]), 16, (4, 4), (16, 16), np.random.default_rng(0))
    assert scene.labels.tolist() == [3]
    assert scene.box(0) == [0.0, 0.0, 16.0, 16.0]


def test_where_ink_meets_the_stronger_wins():
    """Dots of weak and strong ink, all of which have one place."""
    images = np.zeros((2, 8, 8), np.uint8)
    images[0, :, :4], images[1, :, 3:] = 150, 250
    for seed in range(30):
        rng = np.random.default_rng(seed)
        scene = compose(images, np.array([0, 1]), 8, (6, 6), (8, 8), rng)
        assert len(scene.labels) == 1  # they share more than they may
    wide = np.zeros((2, 20, 20), np.uint8)
    wide[0, :, :11], wide[1, :, 10:] = 150, 250
    for seed in range(30):
        rng = np.random.default_rng(seed)
        scene = compose(wide, np.array([0, 1]), 20, (6, 6), (20, 20), rng)
        if len(scene.labels) == 2:
            columns = scene.classes()[0]
            assert (columns[:10] == 1).all()
            assert (columns[10:] == 2).all()
            break
    else:
        raise AssertionError('no scene has both')
