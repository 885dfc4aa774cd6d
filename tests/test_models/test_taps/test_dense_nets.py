"""Taps of nets that detect and segment: what a recorder gets there."""

import pickle

import pytest
import torch
from mmrazor.models.task_modules import RecorderManager

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from dense_nets import (
    BACKBONE,
    CLASSES,
    DETECTORS,
    FOCAL,
    SEGMENTORS,
    SOFTMAX,
    compared_at,
    dense_batch,
    dense_net,
    retinanet,
    segmentor,
)
from tiny import distillation

from cakd_mm.models.distillers.compared_classes import compares_classes
from cakd_mm.models.recorders import TapRecorder
from cakd_mm.models.taps import dry_run, find_point, points_of
from cakd_mm.models.taps.dry_run import Outlines

ALL = {**DETECTORS, **SEGMENTORS}
ONE_STAGE = 'RetinaNet', 'FCOS', 'GFL'
STAGES = [f'stage{i}' for i in (1, 2, 3, 4)]


def recorded(net, cfg, sources, mode, size=(64, 64), data_idx=None):
    """Return what taps of a net get while it runs as a teacher or a student does."""
    recorders = {name: dict(type='Tap', source=name) for name in sources}
    manager = RecorderManager(recorders)
    manager.initialize(net)
    images, samples = dense_batch(cfg, size)
    with manager:
        net(images, samples, mode=mode)
    return {
        name: manager.get_recorder(name).get_record_data(data_idx=data_idx)
        for name in sources
    }


@pytest.mark.parametrize('mode', ['tensor', 'loss'])
@pytest.mark.parametrize('name', ALL)
def test_stages_levels_and_scores_are_those_of_the_parts(name, mode):
    cfg = ALL[name]()
    net = dense_net(cfg).eval()
    size = (64, 64) if mode == 'tensor' else (64, 96)
    images, _ = dense_batch(cfg, size)
    with torch.no_grad():
        maps = net.backbone(images)
        levels = net.neck(maps) if 'neck' in cfg else ()
        scores = ()
        if name in ONE_STAGE:
            scores = net.bbox_head.forward(levels)[0]
        elif name in SEGMENTORS:
            scores = [net.decode_head.forward(maps)]
    names = [f'logits{i}' for i in range(5)] if name in ONE_STAGE else ['logits']
    expected = dict(zip(names, scores, strict=False))
    expected |= {f'fpn{i}': level for i, level in enumerate(levels)}
    expected |= dict(zip(STAGES[-len(maps) :], maps, strict=True))
    of_names = {x for x in points_of(net) if x.startswith(('fpn', 'logits'))}
    assert of_names == {x for x in expected if x.startswith(('fpn', 'logits'))}
    found = recorded(net, cfg, expected, mode, size)
    for place, value in expected.items():
        assert torch.equal(found[place], value), place
        assert points_of(net)[place].channels == value.shape[1]
        assert found[place].requires_grad


@pytest.mark.parametrize('name', ALL)
def test_a_stage_ends_with_the_backbone(name):
    points = points_of(dense_net(ALL[name]()))
    for stage, width in zip(STAGES, (4, 8, 16, 32), strict=True):
        assert points[stage].module.split('.')[0] == 'backbone'
        assert points[stage].channels == width
        if name != 'SegFormer':
            assert points[stage].module == f'backbone.layer{stage[-1]}'
            assert points[f'{stage}_pre'].module.endswith('.1.relu')
    assert not points.keys() & {'pooled', 'classifier', 'class_token'}


def test_a_stage_that_is_no_output_of_the_backbone_is_the_last_of_its_size():
    cfg = retinanet(backbone=dict(BACKBONE, out_indices=(1, 2, 3)))
    cfg['neck'] = dict(cfg['neck'], in_channels=[8, 16, 32], start_level=0)
    net = dense_net(cfg).eval()
    images, _ = dense_batch(cfg)
    part = net.backbone
    stem = part.maxpool(part.relu(part.bn1(part.conv1(images))))
    found = recorded(net, cfg, ['stage1', 'stage2'], 'tensor')
    assert torch.equal(found['stage1'], part.layer1(stem))
    assert torch.equal(found['stage2'], net.backbone(images)[0])


def test_maps_of_tokens_are_taken_where_the_backbone_gives_them():
    """Tokens of images that are not square could not be laid out as a map."""
    backbone = dict(
        type='SwinTransformer',
        embed_dims=4,
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 2, 2),
        window_size=2,
        out_indices=(1, 2, 3),
    )
    cfg = retinanet(backbone=backbone)
    cfg['neck'] = dict(cfg['neck'], in_channels=[8, 16, 32], start_level=0)
    net = dense_net(cfg).eval()
    images, _ = dense_batch(cfg, (64, 96))
    found = recorded(net, cfg, STAGES[1:], 'loss', (64, 96))
    for stage, value in zip(STAGES[1:], net.backbone(images), strict=True):
        assert torch.equal(found[stage], value)


@pytest.mark.parametrize('name', SEGMENTORS)
def test_the_label_map_is_that_of_the_samples(name):
    cfg = SEGMENTORS[name]()
    net = dense_net(cfg).train()
    _, samples = dense_batch(cfg)
    expected = torch.cat([x.gt_sem_seg.data for x in samples])
    found = recorded(net, cfg, ['gt_map'], 'loss')['gt_map']
    assert torch.equal(found, expected)
    assert found.dtype == torch.int64 and found.shape == (2, 64, 64)
    parts = (
        recorded(net, cfg, ['loss_inputs'], 'loss', data_idx=i)['loss_inputs']
        for i in (0, 1)
    )
    # In parts, or as a whole.
    for scores, labels in (
        parts,
        recorded(net, cfg, ['loss_inputs'], 'loss')['loss_inputs'],
    ):
        assert torch.equal(labels, expected) and scores.shape == (2, CLASSES, 64, 64)


def test_a_head_with_several_losses_has_one_label_map():
    cfg = SEGMENTORS['PSPNet']()
    cross_entropy = cfg['decode_head']['loss_decode']
    losses = [dict(cross_entropy, loss_name=f'loss_{x}') for x in 'ab']
    cfg['decode_head'] = dict(cfg['decode_head'], loss_decode=losses)
    found = recorded(dense_net(cfg), cfg, ['gt_map'], 'loss')
    _, samples = dense_batch(cfg)
    assert torch.equal(found['gt_map'], torch.cat([x.gt_sem_seg.data for x in samples]))


def test_of_heads_in_turn_the_last_one_scores():
    head = SEGMENTORS['PSPNet']()['decode_head']
    refined = dict(head, type='OCRHead', in_index=3, ocr_channels=8)
    del refined['pool_scales']
    cfg = segmentor(dict())
    coarse = dict(head, type='FCNHead', num_convs=1)
    del coarse['pool_scales']
    cfg.update(type='CascadeEncoderDecoder', num_stages=2)
    cfg['decode_head'] = [coarse, refined]
    net = dense_net(cfg).eval()
    assert points_of(net)['logits'].module == 'decode_head.1.conv_seg'
    images, _ = dense_batch(cfg)
    found = recorded(net, cfg, ['logits', 'gt_map'], 'loss')
    assert torch.equal(found['logits'], net(images, mode='tensor'))
    assert found['gt_map'].shape == (2, 64, 64)


@pytest.mark.parametrize(
    ('name', 'loss', 'anchors', 'classes'),
    [
        ('RetinaNet', FOCAL, 2, CLASSES),
        ('RetinaNet', SOFTMAX, 2, CLASSES + 1),  # and the background
        ('FCOS', FOCAL, 1, CLASSES),
    ],
)
def test_a_map_tells_how_many_channels_score_one_box(name, loss, anchors, classes):
    cfg = DETECTORS[name]()
    cfg['bbox_head']['loss_cls'] = loss
    points = points_of(dense_net(cfg))
    for level in range(5):
        place = points[f'logits{level}']
        assert (place.classes, place.channels) == (classes, anchors * classes)
    assert points['fpn0'].classes is None


@pytest.mark.parametrize('name', SEGMENTORS)
def test_a_pixel_has_all_channels(name):
    place = points_of(dense_net(SEGMENTORS[name]()))['logits']
    assert place.classes == place.channels == CLASSES


def test_boxes_are_not_taken_for_scores():
    """Both have four channels here."""
    net = dense_net(DETECTORS['FCOS']())
    head = net.bbox_head
    assert head.conv_cls.out_channels == head.conv_reg.out_channels
    points = points_of(net)
    for level in range(5):
        place = points[f'logits{level}']
        assert (place.module, place.call) == ('bbox_head.conv_cls', level)


def test_scores_that_no_layer_gives_are_no_tap():
    net = dense_net(DETECTORS['RetinaNet']())
    forward = net.bbox_head.forward
    net.bbox_head.forward = lambda x: (
        [s.sigmoid() for s in forward(x)[0]],
        *forward(x),
    )
    assert not any(x.startswith('logits') for x in points_of(net))
    with pytest.raises(ValueError, match=r'none of positions that a layer gives'):
        find_point(net, 'logits0', 'a.key')


def test_a_pyramid_has_the_scores_of_all_levels_or_of_none():
    net = dense_net(DETECTORS['RetinaNet']())
    forward = net.bbox_head.forward

    def last_one_as_probabilities(x):
        scores, boxes = forward(x)
        return [*scores[:-1], scores[-1].sigmoid()], boxes

    net.bbox_head.forward = last_one_as_probabilities
    assert not any(x.startswith('logits') for x in points_of(net))


@pytest.mark.parametrize('name', ['Faster R-CNN', 'Cascade R-CNN', 'Mask R-CNN'])
@pytest.mark.parametrize('place', ['logits', 'logits2'])
def test_the_scores_of_a_second_stage_are_refused(name, place):
    net = dense_net(DETECTORS[name]())
    with pytest.raises(
        ValueError, match=r'proposals, and those of the teacher are oth'
    ) as e:
        find_point(net, place, 'model.distiller.student_recorders.a.source')
    assert f'`model.distiller.student_recorders.a.source` = {place!r}' in str(e.value)
    assert 'Compare features: fpn0' in str(e.value)


def test_the_scores_of_queries_are_refused():
    net = dense_net(DETECTORS['DETR']())
    with pytest.raises(ValueError, match='queries mean another box in each net'):
        find_point(net, 'logits', 'a.key')


def test_the_scores_of_levels_are_named():
    net = dense_net(DETECTORS['RetinaNet']())
    with pytest.raises(ValueError, match='logits0, logits1') as error:
        find_point(net, 'logits', 'a.key')
    assert 'Write logits0' in str(error.value)


def test_another_call_than_that_of_a_level_is_refused():
    cfg = retinanet()
    net = dense_net(cfg)
    recorder = TapRecorder(source='logits1')
    recorder.initialize(net)
    images, samples = dense_batch(cfg)
    with recorder:
        net(images, samples, mode='loss')
    assert recorder.get_record_data().shape == (2, 2 * CLASSES, 4, 4)
    with pytest.raises(ValueError, match=r'`record_idx` = 1: .*another level'):
        recorder.get_record_data(record_idx=1)


def test_a_level_that_one_net_lacks_is_lacking():
    net = dense_net(DETECTORS['DETR']())
    lacking = {
        source: TapRecorder(source=source).is_lacking(net)
        for source in ('fpn0', 'fpn4', 'logits', 'logits3', 'gt_map', 'nonsense')
    }
    assert lacking == dict(
        fpn0=False, fpn4=True, logits=True, logits3=True, gt_map=True, nonsense=False
    )


def test_places_can_be_pickled():
    for name in ('RetinaNet', 'PSPNet', 'SegFormer'):
        points = points_of(dense_net(ALL[name]()))
        assert pickle.loads(pickle.dumps(points)).keys() == points.keys()


def test_a_tensor_has_one_outline_in_all_calls():
    net = dense_net(DETECTORS['RetinaNet']())
    run = dry_run(net)
    scores = [x.output for x in run.calls_of('bbox_head.retina_cls')]
    assert all(x is y for x, y in zip(scores, run.output[0], strict=True))
    assert len({id(x) for x in scores}) == 5


def test_a_part_has_its_own_run():
    net = dense_net(DETECTORS['RetinaNet']())
    run = dry_run(net)
    part = run.within('backbone')
    assert part.output is run.calls_of('backbone')[0].output
    assert {x.path for x in part.calls} == {
        x.path.removeprefix('backbone').removeprefix('.')
        for x in run.calls
        if x.path.split('.')[0] == 'backbone'
    }
    assert run.within('back').calls == []


def test_lists_that_are_not_of_class_scores_are_no_scores():
    """A head of others may give its boxes first."""
    cfg = retinanet()
    cfg['bbox_head'] = dict(cfg['bbox_head'], num_classes=3)  # boxes: 2 * 4 channels
    net = dense_net(cfg)
    forward = net.bbox_head.forward
    net.bbox_head.forward = lambda x: forward(x)[::-1]
    assert not any(x.startswith('logits') for x in points_of(net))


def test_of_several_score_maps_the_first_is_meant():
    """mmseg predicts by it, and the others help to train."""
    head = dict(type='DAHead', in_channels=32, in_index=3, pam_channels=4)
    cfg = segmentor(head)
    net = dense_net(cfg).eval()
    images, _ = dense_batch(cfg)
    found = recorded(net, cfg, ['logits'], 'loss')['logits']
    assert torch.equal(found, net(images, mode='tensor')[0])


def test_a_tensor_that_changed_its_shape_has_another_outline():
    outlines, tensor = Outlines(), torch.zeros(2, 3, 4, 4)
    first = outlines.of(tensor)
    assert outlines.of(tensor) is first and first.is_meta
    tensor.unsqueeze_(0)
    assert outlines.of(tensor).shape == (1, 2, 3, 4, 4)


@pytest.mark.parametrize(
    ('source', 'compares'), [('logits1', True), ('fpn0', False), ('stage4', False)]
)
def test_scores_of_levels_are_compared_by_class(source, compares):
    """A teacher of other classes can teach maps, and no scores."""
    distiller = compared_at(source)
    net = dict(retinanet(), _scope_='mmdet')
    model = distillation(distiller, net, net)
    assert compares_classes(model.distiller, model.teacher) is compares
    images, samples = dense_batch(net)
    losses = model(images, samples, mode='loss')
    assert losses['distill.loss'].requires_grad
