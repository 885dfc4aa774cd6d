"""Channel numbers that a method's lists of taps leave to the nets."""

import copy

import pytest
from test_widths import resnet

from cakd_mm.models.algorithms.widths import fill_widths

NAMES = ['a', 'b', 'pooled']
SOURCES = ['backbone.stage1', 'backbone.stage2_pre', 'neck']


@pytest.fixture(scope='module')
def student():
    return resnet((4, 5, 6, 7))


@pytest.fixture(scope='module')
def teacher():
    return resnet((8, 10, 12, 14), classes=11)


def method(connector, kinds):
    taps = {
        name: dict(type='ModuleOutputs', source=source)
        for name, source in zip(NAMES, SOURCES, strict=True)
    }
    return dict(
        type='StrictDistiller',
        student_recorders=taps,
        teacher_recorders=copy.deepcopy(taps),
        connectors={name: dict(type=kind) for name, kind in kinds.items()},
        distill_losses=dict(loss_a=dict(type='HCLLoss')),
        loss_forward_mappings=dict(
            loss_a=dict(
                preds_S=dict(recorder=NAMES, from_student=True, connector=connector),
                preds_T=dict(recorder=NAMES, from_student=False),
            )
        ),
    )


FUSE = dict(fuse='FusionConnector')
EACH = dict(x='MapConnector', y='mmrazor.MapConnector', z='PooledConnector')


def test_a_connector_for_each_or_one_for_the_whole_list(student, teacher):
    filled = fill_widths(method(['x', 'y', 'z'], EACH), student, teacher)
    expected = dict(x=(5, 10), y=(6, 12), z=(7, 14))
    for name, widths in expected.items():
        found = filled['connectors'][name]
        assert (found['in_channels'], found['out_channels']) == widths
    cfg = method('fuse', FUSE)
    before = copy.deepcopy(cfg)
    found = fill_widths(cfg, student, teacher)['connectors']['fuse']
    assert found['in_channels'] == [5, 6, 7]
    assert found['out_channels'] == [10, 12, 14]
    assert cfg == before


def test_written_widths_stay(student, teacher):
    cfg = method('fuse', FUSE)
    cfg['connectors']['fuse']['in_channels'] = [1, 2, 3]
    found = fill_widths(cfg, student, teacher)['connectors']['fuse']
    assert (found['in_channels'], found['out_channels']) == ([1, 2, 3], [10, 12, 14])
    cfg = method(['x', None, 'z'], EACH)
    cfg['connectors']['z']['out_channels'] = 3
    found = fill_widths(cfg, student, teacher)['connectors']
    assert (found['z']['in_channels'], found['z']['out_channels']) == (7, 3)
    assert found['x']['in_channels'] == 5
    assert found['y'] == dict(type='mmrazor.MapConnector')


@pytest.mark.parametrize(
    ('connector', 'kinds', 'change'),
    [
        ('x', EACH, {}),
        (['fuse', None, None], FUSE, {}),
        ('fuse', FUSE, dict(recorder='a')),
        (['x'], EACH, dict(recorder='a')),
        ([['x']], EACH, {}),
        (['unknown'], EACH, {}),
    ],
    ids=str,
)
def test_what_the_distiller_refuses_is_left_alone(
    student, teacher, connector, kinds, change
):
    cfg = method(connector, kinds)
    cfg['loss_forward_mappings']['loss_a']['preds_S'].update(change)
    assert fill_widths(cfg, student, teacher) == cfg


def test_unequal_lists_are_filled_as_far_as_they_go(student, teacher):
    cfg = method(['x', 'y', 'z'], EACH)
    cfg['loss_forward_mappings']['loss_a']['preds_T']['recorder'] = NAMES[:1]
    found = fill_widths(cfg, student, teacher)['connectors']
    assert found['x'] == dict(type='MapConnector', in_channels=5, out_channels=10)
    assert found['y'] == dict(type='mmrazor.MapConnector')


def test_a_width_that_cannot_be_told(student, teacher):
    cfg = method('fuse', FUSE)
    cfg['teacher_recorders']['b']['source'] = 'head.loss_module'
    match = r"connectors\.fuse\.out_channels` = None: The width of 'head\.loss_module'"
    with pytest.raises(ValueError, match=match):
        fill_widths(cfg, student, teacher)


def test_a_loss_of_one_feature_cannot_be_told_the_width_of_a_list(student, teacher):
    cfg = method(['x', 'y', 'z'], EACH)
    cfg['distill_losses']['loss_a'] = dict(type='FeatureKLLoss', standardize=True)
    match = r'distill_losses\.loss_a\.channels` = None: The width of None'
    with pytest.raises(ValueError, match=match):
        fill_widths(cfg, student, teacher)


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        (dict(instance_wise=True), 11),
        (dict(instance_wise=True, num_classes=3), 3),
        ({}, None),
    ],
)
def test_the_classes_of_ctkd(student, teacher, options, expected):
    cfg = method(None, {})
    cfg['distill_losses']['loss_a'] = dict(type='mmrazor.CTKDLoss', **options)
    found = fill_widths(cfg, student, teacher)['distill_losses']['loss_a']
    assert found.get('num_classes') == expected
