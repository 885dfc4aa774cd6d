"""What stands for mmcv's compiled operations computes what they compute."""

import ast
import math
from itertools import product
from pathlib import Path

import mmcv
import pytest
import torch
from torch.testing import assert_close

from cakd_mm import plain_operations
from cakd_mm.plain_operations import (
    NEEDED_BY,
    SERVED,
    MissingOperationError,
    PlainOperations,
)

OPERATIONS = PlainOperations()
FOLDER = Path(mmcv.__file__).parent / 'ops'


def operations_of_mmcv() -> list[str]:
    """Return what mmcv looks for in ``mmcv._ext``, by its own source."""
    found = []
    for file in FOLDER.glob('*.py'):
        for node in ast.walk(ast.parse(file.read_text())):
            if getattr(getattr(node, 'func', None), 'attr', None) == 'load_ext':
                found += ast.literal_eval(node.args[1])
    return sorted(found)


NAMES = operations_of_mmcv()
SERVED_NAMES = {
    'get_compiler_version',
    'get_compiling_cuda_version',
    'ms_deform_attn_backward',
    'ms_deform_attn_forward',
    'nms',
    'roi_align_backward',
    'roi_align_forward',
    'sigmoid_focal_loss_backward',
    'sigmoid_focal_loss_forward',
}


@pytest.fixture
def ops():
    return pytest.importorskip('mmcv.ops')


# --- What is missing ---------------------------------------------------------


@pytest.mark.skipif(not NAMES, reason='this mmcv has no operations')
def test_every_operation_is_there_or_refused_by_name():
    assert len(NAMES) > 80
    assert set(NAMES) > SERVED_NAMES
    for name in {*NAMES} - SERVED_NAMES:
        with pytest.raises(MissingOperationError, match=rf'and {name} is one of them'):
            getattr(OPERATIONS, name)(1, keyword=2)


@pytest.mark.skipif(not NAMES, reason='this mmcv has no operations')
@pytest.mark.parametrize('start', [x for x in NEEDED_BY if ' ' not in x])
def test_what_needs_an_operation_names_one(start):
    """The files of layers count, too, because layers are refused by these."""
    files = {x.stem for x in FOLDER.glob('*.py')}
    named = [x for x in (*NAMES, *files) if x.startswith(start)]
    assert named
    assert not {*named} & {*SERVED_NAMES, *SERVED}
    with pytest.raises(MissingOperationError) as caught:
        getattr(OPERATIONS, named[0])()
    assert f' It serves {NEEDED_BY[start]}.' in str(caught.value)


def test_a_name_of_pythons_own_is_no_operation():
    assert not hasattr(OPERATIONS, '__path__')
    assert OPERATIONS.__spec__.name == 'mmcv._ext'


def test_a_report_of_the_environment_needs_no_operation(ops):
    if 'mmcv._ext' in plain_operations.sys.modules:
        assert ops.get_compiler_version() == 'n/a'
        assert ops.get_compiling_cuda_version() == 'n/a'


LAYERS = {
    'DeformConv2d': 'deform_conv .*RepPoints',
    'DeformConv2dPack': 'deform_conv .*type="DCN"',
    'ModulatedDeformConv2dPack': 'modulated_deform_conv .*DCNv2',
    'MaskedConv2d': 'masked_conv .*Guided Anchoring',
    'CARAFEPack': 'carafe .*FPN_CARAFE',
    'RoIPool': 'roi_pool .*RoIAlign does without',
    'PSAMask': 'psa_mask .*PSANet',
    'SyncBatchNorm': 'sync_bn .*MMSyncBN',
    'DeformRoIPoolPack': 'deform_roi_pool .*DeformRoIPoolPack',
    'BorderAlign': r'border_align is one of them\. Remedy',
}


@pytest.mark.parametrize('name', LAYERS)
def test_a_layer_that_cannot_compute_is_refused_when_it_is_built(name, ops):
    with pytest.raises(MissingOperationError, match=LAYERS[name]):
        getattr(ops, name)(3, 3, 3)


def test_a_config_with_such_a_layer_is_refused_when_it_is_built(ops):
    from mmcv.cnn import ConvModule

    with pytest.raises(MissingOperationError, match='modulated_deform_conv .*DCNv2'):
        ConvModule(3, 4, 3, conv_cfg=dict(type='DCNv2'))


def test_layers_that_compute_are_built(ops):
    assert ops.RoIAlign(7).output_size == (7, 7)
    assert ops.SigmoidFocalLoss(2.0, 0.25).gamma == 2.0
    assert ops.MultiScaleDeformableAttention(8, num_heads=2).num_heads == 2
    assert ops.CornerPool('top')(torch.eye(2)[None, None]).shape == (1, 1, 2, 2)
    assert ops.CrissCrossAttention(8).in_channels == 8


# --- Non-maximum suppression -------------------------------------------------


def slow_nms(boxes, scores, threshold, offset):
    def overlap(a, b):
        sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + offset for i in (0, 1)]
        shared = max(sides[0], 0.0) * max(sides[1], 0.0)
        areas = [(x[2] - x[0] + offset) * (x[3] - x[1] + offset) for x in (a, b)]
        return shared / (sum(areas) - shared)

    boxes, scores = boxes.tolist(), scores.tolist()
    kept: list[int] = []
    for place in sorted(range(len(scores)), key=lambda x: -scores[x]):
        if all(overlap(boxes[place], boxes[x]) <= threshold for x in kept):
            kept.append(place)
    return kept


def some_boxes(count, dtype=torch.float64):
    corners = torch.randint(0, 24, (count, 2)).double()
    sides = torch.randint(1, 12, (count, 2)).double()
    # A few values alone, so that some are equal.
    scores = torch.randint(1, 9, (count,)).double() / 8
    return torch.cat([corners, corners + sides], 1).to(dtype), scores.to(dtype)


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('dtype', [torch.float64, torch.half, torch.bfloat16])
def test_the_boxes_that_stay(offset, dtype):
    torch.manual_seed(0)
    kept = []
    for threshold in (0.05, 0.15, 0.35):
        boxes, scores = some_boxes(60, dtype)
        found = OPERATIONS.nms(boxes, scores, iou_threshold=threshold, offset=offset)
        assert found.dtype == torch.long
        assert found.tolist() == slow_nms(boxes, scores, threshold, offset)
        kept.append(len(found))
    assert 5 < kept[0] < kept[1] < kept[2] < 60


def test_a_pixel_more_lets_boxes_overlap_more():
    """By hand: 1 of 7 pixels without the offset, 4 of 14 with it."""
    boxes = torch.tensor([[0.0, 0, 2, 2], [1.0, 1, 3, 3]])
    scores = torch.tensor([0.5, 0.9])
    assert OPERATIONS.nms(boxes, scores, 0.2, 0).tolist() == [1, 0]
    assert OPERATIONS.nms(boxes, scores, 0.2, 1).tolist() == [1]
    assert boxes[0].tolist() == [0, 0, 2, 2]  # nothing is written


def test_the_order_is_that_of_the_more_precise_scores():
    """Half precision, or float32, would make these equal, and keep the first."""
    boxes = torch.tensor([[0.0, 0, 4, 4], [0.0, 0, 4, 4]])
    for low, scores in (
        (torch.half, torch.tensor([0.90001, 0.90002])),
        (torch.float32, torch.tensor([0.9, 0.9 + 1e-12], dtype=torch.double)),
    ):
        assert scores.to(low).unique().numel() == 1
        assert OPERATIONS.nms(boxes.to(low), scores, 0.5, 0).tolist() == [1]


def test_no_box_at_all():
    assert OPERATIONS.nms(torch.empty(0, 4), torch.empty(0), 0.5, 0).tolist() == []


def test_boxes_of_several_classes(ops):
    boxes = torch.tensor([[0.0, 0, 4, 4], [0.0, 0, 4, 4], [0.0, 0, 4, 5]])
    scores, classes = torch.tensor([0.2, 0.8, 0.5]), torch.tensor([0, 1, 0])
    found, kept = ops.batched_nms(
        boxes, scores, classes, dict(type='nms', iou_threshold=0.5)
    )
    assert kept.tolist() == [1, 2]
    assert_close(found[:, 4], torch.tensor([0.8, 0.5]))
    with pytest.raises(MissingOperationError, match='softnms .*type="soft_nms"'):
        ops.batched_nms(boxes, scores, classes, dict(type='soft_nms'))


# --- Regions of a map --------------------------------------------------------


def slow_roi_align(maps, roi, size, scale, ratio, aligned):
    """Pool one region of one map, (H, W), to (size, size)."""
    height, width = maps.shape

    def at(y, x):
        if not (-1 <= y <= height and -1 <= x <= width):
            return 0.0
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        top, left = math.floor(y), math.floor(x)
        total = 0.0
        for row, column in product((top, top + 1), (left, left + 1)):
            share = (1 - abs(y - row)) * (1 - abs(x - column))
            if share > 0:
                total += share * float(maps[row, column])
        return total

    shift = 0.5 if aligned else 0.0
    left, top, right, bottom = (float(x) * scale - shift for x in roi)
    sides = [bottom - top, right - left]
    if not aligned:
        sides = [max(x, 1.0) for x in sides]
    bins = [x / size for x in sides]
    counts = [ratio or math.ceil(x) for x in bins]
    pooled = torch.zeros(size, size, dtype=torch.double)
    for i, j in product(range(size), range(size)):
        points = [
            at(
                top + (i + (k + 0.5) / counts[0]) * bins[0],
                left + (j + (m + 0.5) / counts[1]) * bins[1],
            )
            for k, m in product(range(counts[0]), range(counts[1]))
        ]
        pooled[i, j] = sum(points) / len(points)
    return pooled


ROIS = torch.tensor(
    [[0, 1.0, 2.0, 9.0, 13.0], [1, 0.5, 4.0, 1.2, 4.4], [1, 10.0, 0.0, 15.9, 30.0]],
    dtype=torch.double,
)


def some_maps():
    torch.manual_seed(0)
    return torch.randn(2, 2, 8, 8, dtype=torch.double)


def pool(maps, rois=ROIS, ratio=2, aligned=True, mode=1, size=3, **kinds):
    output = torch.full((len(rois), maps.shape[1], size, size), 7.0, **kinds)
    OPERATIONS.roi_align_forward(
        maps,
        rois,
        output,
        torch.empty(0),
        torch.empty(0),
        aligned_height=size,
        aligned_width=size,
        spatial_scale=0.5,
        sampling_ratio=ratio,
        pool_mode=mode,
        aligned=aligned,
    )
    return output


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 1, 3])
def test_pooled_regions(aligned, ratio):
    """Regions within, smaller than a pixel, and across the border."""
    maps = some_maps()
    found = pool(maps, ratio=ratio, aligned=aligned, dtype=torch.double)
    for roi, pooled in zip(ROIS, found, strict=True):
        for channel in range(2):
            expected = slow_roi_align(
                maps[int(roi[0]), channel], roi[1:], 3, 0.5, ratio, aligned
            )
            assert_close(pooled[channel], expected)


@pytest.mark.parametrize('dtype', [torch.half, torch.bfloat16])
def test_regions_in_half_precision(dtype):
    maps = some_maps().to(dtype)
    found = pool(maps, ROIS.to(dtype), dtype=dtype)
    assert found.dtype == dtype
    expected = pool(maps.double(), ROIS.to(dtype).double(), dtype=torch.double)
    assert_close(found, expected.to(dtype), rtol=1e-2, atol=1e-2)


def test_the_greatest_of_a_region_is_refused():
    with pytest.raises(MissingOperationError, match=r'pool_mode="max" .*pool_mode'):
        pool(some_maps(), mode=0)


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 2])
def test_gradients_of_regions(aligned, ratio, ops):
    maps = some_maps().requires_grad_()
    layer = ops.RoIAlign((2, 3), 0.5, ratio, 'avg', aligned)
    assert torch.autograd.gradcheck(lambda x: layer(x, ROIS), maps)
    # Through half precision as well, as mixed precision does.
    low = some_maps().half().requires_grad_()
    layer(low, ROIS.half()).sum().backward()
    layer(maps, ROIS.half().double()).sum().backward()
    assert low.grad.dtype == torch.half
    assert_close(low.grad, maps.grad.half(), rtol=1e-2, atol=1e-2)


def test_no_region_at_all(ops):
    maps = some_maps().requires_grad_()
    pooled = ops.RoIAlign(2)(maps, torch.empty(0, 5, dtype=torch.double))
    assert pooled.shape == (0, 2, 2, 2)
    pooled.sum().backward()
    assert not maps.grad.any()


# --- Focal loss --------------------------------------------------------------


def slow_focal_loss(scores, targets, gamma, alpha):
    losses = torch.zeros(scores.shape, dtype=torch.double)
    for n, k in product(*map(range, scores.shape)):
        p = 1 / (1 + math.exp(-float(scores[n, k])))
        if int(targets[n]) == k:
            losses[n, k] = -alpha * (1 - p) ** gamma * math.log(p)
        else:
            losses[n, k] = -(1 - alpha) * p**gamma * math.log(1 - p)
    return losses


def some_scores(dtype=torch.double):
    torch.manual_seed(0)
    # The last sample is of no class, as mmdet writes the background.
    return torch.randn(5, 3).to(dtype), torch.tensor([0, 2, 1, 2, 3])


def focal(scores, targets, gamma, alpha):
    output = torch.full_like(scores, 7.0)
    weight = scores.new_empty(0)
    OPERATIONS.sigmoid_focal_loss_forward(
        scores, targets, weight, output, gamma=gamma, alpha=alpha
    )
    return output


@pytest.mark.parametrize(
    ('gamma', 'alpha'), [(2.0, 0.25), (0.5, 0.75), (0.0, 0.5), (3.0, 1.0)]
)
def test_focal_loss(gamma, alpha):
    scores, targets = some_scores()
    expected = slow_focal_loss(scores, targets, gamma, alpha)
    assert_close(focal(scores, targets, gamma, alpha), expected)
    low = scores.half()
    found = focal(low, targets, gamma, alpha)
    assert found.dtype == torch.half
    expected = slow_focal_loss(low, targets, gamma, alpha)
    assert_close(found, expected.half(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
def test_gradient_of_the_focal_loss(gamma, ops):
    scores, targets = some_scores()
    scores.requires_grad_()

    def loss(x):
        return ops.sigmoid_focal_loss(x, targets, gamma, 0.3, None, 'sum')

    assert torch.autograd.gradcheck(loss, scores)
    low = scores.detach().half().requires_grad_()
    loss(low).backward()
    loss(scores).backward()
    assert_close(low.grad, scores.grad.half(), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
def test_a_focal_loss_of_great_scores_is_finite(gamma):
    scores = torch.tensor([[1e12, -1e12], [-1e12, 1e12], [40.0, -40.0]])
    targets = torch.tensor([0, 0, 1])
    losses = focal(scores, targets, gamma, 0.25)
    wrong = torch.tensor([[0.25e12, 0.75e12], [30.0, 10.0]])
    assert_close(losses[1], wrong[0])
    assert_close(losses[2], wrong[1])
    assert losses[0].tolist() == [0, 0]
    gradient = torch.full_like(scores, 7.0)
    OPERATIONS.sigmoid_focal_loss_backward(
        scores, targets, scores.new_empty(0), gradient, gamma=gamma, alpha=0.25
    )
    assert_close(gradient[1], torch.tensor([-0.25, 0.75]))
    assert gradient[0].tolist() == [0, 0]


def test_a_focal_loss_with_weights_of_classes_is_refused():
    scores, targets = some_scores()
    output = torch.empty_like(scores)
    with pytest.raises(MissingOperationError, match='a weight for each class'):
        OPERATIONS.sigmoid_focal_loss_forward(
            scores, targets, torch.ones(3), output, gamma=2.0, alpha=0.25
        )


# --- Attention at points of a pyramid ----------------------------------------


SHAPES = torch.tensor([[2, 3], [1, 2]])


def test_what_is_seen_at_points_of_a_pyramid():
    """By hand: the middle of a place, a border between two, and no point at all."""
    value = torch.arange(1.0, 9.0, dtype=torch.double).view(1, 8, 1, 1)
    middle, between = [0.5 / 3, 0.25], [0.5, 0.5]
    points = torch.tensor([[[middle], [between]], [[[-9.0, 0.5]], [between]]])
    points = points.double().view(1, 2, 1, 2, 1, 2)
    weights = torch.tensor([[0.75, 0.25], [0.5, 0.5]]).double().view(1, 2, 1, 2, 1)
    found = OPERATIONS.ms_deform_attn_forward(
        value, SHAPES, torch.tensor([0, 6]), points, weights, im2col_step=64
    )
    expected = [0.75 * 1 + 0.25 * 7.5, 0.5 * 0 + 0.5 * 7.5]
    assert_close(found, torch.tensor(expected).double().view(1, 2, 1))


def test_gradients_of_what_is_seen(ops):
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    torch.manual_seed(0)
    value = torch.randn(2, 8, 2, 3, dtype=torch.double)
    points = torch.rand(2, 4, 2, 2, 2, 2, dtype=torch.double)
    weights = torch.rand(2, 4, 2, 2, 2, dtype=torch.double)
    inputs = [x.requires_grad_() for x in (value, points, weights)]

    def see(value, points, weights):
        starts = torch.tensor([0, 6])
        return MultiScaleDeformableAttnFunction.apply(
            value, SHAPES, starts, points, weights, 64
        )

    assert torch.autograd.gradcheck(see, inputs)
