"""Channel numbers a method config leaves to the nets."""

import copy
import re

import pytest
from mmengine.config import Config, ConfigDict
from mmpretrain import get_model
from tiny import CONFIGS, build, image_classifier
from torch import nn

from cakd_mm.models.algorithms.widths import fill_widths
from cakd_mm.models.losses import CAKDFeatureLoss


def resnet(widths, classes=10, depth=8):
    backbone = dict(type='CIFARResNet', depth=depth, widths=widths)
    return image_classifier(backbone, widths[-1], classes)


@pytest.fixture(scope='module')
def student():
    return resnet((4, 5, 6, 7))


@pytest.fixture(scope='module')
def teacher():
    return resnet((8, 10, 12, 14), classes=11)


def method(
    source='neck', theirs=None, connector='PooledConnector', name='loss_a', **loss
):
    """A distiller with one feature loss; ``theirs`` is the teacher's tap."""
    loss.setdefault('type', 'CAKDFeatureLoss')
    return dict(
        type='StrictDistiller',
        student_recorders=dict(tap=dict(type='ModuleOutputs', source=source)),
        teacher_recorders=dict(tap=dict(type='ModuleOutputs', source=theirs or source)),
        connectors=dict(fit=dict(type=connector)),
        distill_losses={name: loss},
        loss_forward_mappings={
            name: dict(
                preds_S=dict(recorder='tap', from_student=True, connector='fit'),
                preds_T=dict(recorder='tap', from_student=False),
            )
        },
    )


def network(**options):
    return dict(type='ScoringNetwork', **options)


def widths(distiller):
    fit = distiller['connectors']['fit']
    return fit.get('in_channels'), fit.get('out_channels')


@pytest.mark.parametrize('connector', ['PooledConnector', 'MapConnector'])
@pytest.mark.parametrize(
    ('source', 'expected'),
    [
        ('neck', (7, 14)),
        ('backbone.stage1', (5, 10)),
        ('backbone.conv1', (4, 8)),
        ('backbone.stage2.0.bn1', (6, 12)),
        ('head.fc', (10, 11)),
    ],
)
def test_a_connector_gets_the_width_of_each_side(
    student, teacher, source, expected, connector
):
    filled = fill_widths(method(source, connector=connector), student, teacher)
    assert widths(filled) == expected


def test_each_side_has_its_own_tap(student, teacher):
    cfg = method('backbone.stage1', 'neck', standardize=True, scorer=network())
    filled = fill_widths(cfg, student, teacher)
    assert widths(filled) == (5, 14)
    loss = filled['distill_losses']['loss_a']
    assert (loss['channels'], loss['scorer']['channels']) == (14, 14)


def test_written_widths_of_a_connector_stay(student, teacher):
    cfg = method(standardize=True)
    cfg['connectors']['fit'].update(in_channels=3, out_channels=None)
    filled = fill_widths(cfg, student, teacher)
    assert widths(filled) == (3, 14)
    assert filled['distill_losses']['loss_a']['channels'] == 14


@pytest.mark.parametrize('kind', ['CAKDFeatureLoss', 'FeatureKLLoss'])
@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        (dict(standardize=True, channels=None), 14),
        (dict(standardize=True, channels=9), 9),
        (dict(), None),
    ],
)
def test_the_channels_of_a_loss(student, teacher, kind, options, expected):
    cfg = method(type=kind, **options)
    filled = fill_widths(cfg, student, teacher)
    assert filled['distill_losses']['loss_a'].get('channels') == expected


@pytest.mark.parametrize(
    ('scorer', 'options', 'expected'),
    [
        ({}, dict(standardize=True, channels=9), (14, 11, 0.5)),
        ({}, dict(strong_share=0.2), (14, 11, 0.2)),
        (dict(share=0.3), dict(strong_share=0.2), (14, 11, 0.3)),
        (dict(channels=5, num_classes=6), {}, (5, 6, 0.5)),
    ],
)
def test_a_scoring_network(student, teacher, scorer, options, expected):
    cfg = method(scorer=network(**scorer), **options)
    found = fill_widths(cfg, student, teacher)['distill_losses']['loss_a']['scorer']
    assert found.pop('type') == 'ScoringNetwork'
    assert (found['channels'], found['num_classes'], found['share']) == expected


def test_a_scorer_within_a_scorer(student, teacher):
    scorer = dict(type='ClassScorer', scorer=network())
    filled = fill_widths(method(strong_share=0.3, scorer=scorer), student, teacher)
    widths = dict(channels=14, num_classes=11)
    inner = dict(type='ScoringNetwork', share=0.3, **widths)
    found = filled['distill_losses']['loss_a']['scorer']
    assert found == dict(type='ClassScorer', scorer=inner, **widths)


class PassingOn(CAKDFeatureLoss):
    """A loss of somebody, whose other arguments need not go on as they are."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)


class Demanding(CAKDFeatureLoss):
    """A loss of somebody that needs a share to be written."""

    def __init__(self, strong_share: float) -> None:
        super().__init__(strong_share=strong_share)


@pytest.mark.parametrize('kind', [PassingOn, Demanding])
def test_a_loss_does_not_say_what_its_scorer_asks_for(student, teacher, kind):
    cfg = method(type=kind, scorer=network())
    expected = (
        r'^`model\.distiller\.distill_losses\.loss_a\.scorer\.share` = None: It is '
        rf"taken from 'strong_share', of which {kind.__name__} has no value"
    )
    with pytest.raises(ValueError, match=expected):
        fill_widths(cfg, student, teacher)
    cfg['distill_losses']['loss_a']['strong_share'] = 0.3
    found = fill_widths(cfg, student, teacher)['distill_losses']['loss_a']['scorer']
    assert found['share'] == 0.3


@pytest.mark.parametrize('source', ['student_chanels', 'class'])
def test_a_loss_asks_for_what_there_is_not(student, teacher, source, monkeypatch):
    monkeypatch.setattr(PassingOn, 'wanted_widths', lambda cfg: dict(channels=source))
    expected = rf"loss_a\.channels` .*'{source}'.*like it: '(student|classes)'"
    with pytest.raises(ValueError, match=expected):
        fill_widths(method(type=PassingOn), student, teacher)


def test_another_scorer_is_told_nothing(student, teacher):
    cfg = method(scorer=dict(type='ActivationScorer'))
    filled = fill_widths(cfg, student, teacher)
    assert filled['distill_losses'] == cfg['distill_losses']


def test_a_scope_before_the_name(student, teacher):
    cfg = method(
        connector='mmrazor.PooledConnector',
        scorer=dict(type='cakd_mm.models.ScoringNetwork'),
    )
    filled = fill_widths(cfg, student, teacher)
    assert widths(filled) == (7, 14)
    assert filled['distill_losses']['loss_a']['scorer']['channels'] == 14


def test_a_teacher_without_a_head_teaches_the_classes_of_the_student(student):
    headless = resnet((8, 10, 12, 14))
    headless.head = None
    cfg = method('backbone.stage2', scorer=network())
    filled = fill_widths(cfg, student, headless)['distill_losses']['loss_a']['scorer']
    assert filled['num_classes'] == 10
    assert filled['channels'] == 12


@pytest.mark.parametrize('as_config', [True, False])
def test_the_input_is_not_modified(student, teacher, as_config):
    cfg = method(standardize=True, scorer=network())
    cfg = ConfigDict(cfg) if as_config else cfg
    before = copy.deepcopy(cfg)
    filled = fill_widths(cfg, student, teacher)
    assert cfg == before
    assert filled != before
    assert type(filled) is type(cfg)


def test_what_is_no_feature_loss_is_left_alone(student, teacher):
    """Lists of connectors, connectors of others, losses of other arguments."""
    cfg = method(name='loss_list')
    cfg['connectors'] = dict(
        fit=[dict(type='PooledConnector'), dict(type='Torch1x1')],
        other=dict(type='ConvModuleConnector'),
        unused=dict(type='PooledConnector'),
    )
    cfg['distill_losses']['loss_other'] = dict(type='L2Loss')
    cfg['loss_forward_mappings']['loss_other'] = dict(
        s_feature=dict(recorder='tap', from_student=True, connector='unused'),
        t_feature=dict(recorder='tap', from_student=False),
    )
    cfg['distill_losses']['loss_kd'] = dict(type='KLDivergence')
    cfg['loss_forward_mappings']['loss_kd'] = dict(
        preds_S=dict(recorder='tap', from_student=True, connector='other'),
        preds_T=dict(recorder='tap', from_student=False),
    )
    assert fill_widths(cfg, student, teacher) == cfg


@pytest.mark.parametrize(
    'change',
    [
        dict(connectors=None),
        dict(loss_forward_mappings=None),
        dict(distill_losses=None),
        dict(loss_forward_mappings=dict(loss_a=dict(preds_S='tap'))),
    ],
    ids=str,
)
def test_incomplete_configs_are_for_the_distiller_to_refuse(student, teacher, change):
    cfg = {**method(), **change}
    assert fill_widths(cfg, student, teacher) == cfg


def test_a_tap_of_a_module_that_is_not_there(student, teacher):
    """The tap is wrong, and not the width that it does not tell."""
    source = r"teacher_recorders\.tap\.source` = 'backbone\.stage9'"
    expected = rf"^`model\.distiller\.{source}.*'backbone\.stage\d'"
    with pytest.raises(ValueError, match=expected):
        fill_widths(method('neck', 'backbone.stage9'), student, teacher)


def test_all_widths_that_are_missing_are_named_at_once(student, teacher):
    cfg = method('head.loss_module', standardize=True, scorer=network())
    with pytest.raises(ValueError, match=r"`model.*'head\.loss_module'") as caught:
        fill_widths(cfg, student, teacher)
    keys = re.findall(r'model\.([\w.]+)=64', str(caught.value))
    assert keys == [
        'distiller.connectors.fit.in_channels',
        'distiller.connectors.fit.out_channels',
        'distiller.distill_losses.loss_a.channels',
        'distiller.distill_losses.loss_a.scorer.channels',
    ]
    written = Config(dict(distiller=cfg))  # what the error says to write is enough
    written.merge_from_dict(dict.fromkeys(keys, 64))
    assert widths(fill_widths(written.distiller, student, teacher)) == (64, 64)


@pytest.mark.parametrize(
    ('pair', 'source', 'expected'),
    [
        ('wrn40-2_shv1_cifar100', 'backbone.stage1_pre', (240, 32)),
        ('wrn40-2_wrn16-2_cifar100', 'backbone.stage2_sum', (64, 64)),
    ],
)
def test_the_pairs_of_the_paper(pair, source, expected):
    """The nets of a shipped pair, at their full width."""
    model = Config.fromfile(CONFIGS / f'_base_/pairs/{pair}.py').model
    for side in ('architecture', 'teacher'):
        model[side].pop('_scope_')
    cfg = method(source, standardize=True, scorer=network())
    filled = fill_widths(cfg, build(model.architecture), build(model.teacher))
    assert widths(filled) == expected
    loss = filled['distill_losses']['loss_a']
    assert (loss['channels'], loss['scorer']['channels']) == (expected[1],) * 2
    assert loss['scorer']['num_classes'] == 100


def test_nets_of_mmpretrain():
    """Blocks that end in a wider convolution, and blocks that do not."""
    nets = [get_model(f'resnet{depth}_8xb32_in1k') for depth in (18, 50)]
    for source, expected in (
        ('backbone.layer1', (64, 256)),
        ('backbone.layer3.1', (256, 1024)),
    ):
        assert widths(fill_widths(method(source), *nets)) == expected


def test_a_plain_block_that_declares_its_width(teacher):
    """The net cannot be run, so that nothing can be measured."""
    net = nn.Module()
    net.block = nn.Module()
    net.block.out_channels = 9
    net.parts = nn.Sequential(nn.Linear(3, 5), nn.ReLU())
    assert widths(fill_widths(method('block', 'neck'), net, teacher)) == (9, 14)
    match = "width of 'parts' cannot be told from the net. It could not be run"
    with pytest.raises(ValueError, match=match):
        fill_widths(method('parts', 'neck'), net, teacher)


def test_a_row_of_a_detectors_scores_is_one_anchor():
    """At every level; what the config says stays, and other maps are left alone."""
    pytest.importorskip('mmdet')
    from dense_nets import CLASSES, dense_net, retinanet

    nets = [dense_net(retinanet()) for _ in range(2)]
    levels = ['logits0', 'logits1', 'fpn0']
    taps = {level: dict(type='Tap', source=level) for level in levels}
    dense = dict(type='DenseLoss', loss=dict(type='SigmoidKDLoss'))
    cfg = dict(
        student_recorders=taps,
        teacher_recorders=taps,
        distill_losses=dict(
            loss_a=dict(
                type='LevelLoss', loss=[dense, dict(dense, num_classes=2), dense]
            )
        ),
        loss_forward_mappings=dict(
            loss_a=dict(
                preds_S=dict(recorder=levels, from_student=True),
                preds_T=dict(recorder=levels, from_student=False),
            )
        ),
    )
    found = fill_widths(cfg, *nets)['distill_losses']['loss_a']['loss']
    assert [one.get('num_classes') for one in found] == [CLASSES, 2, None]
