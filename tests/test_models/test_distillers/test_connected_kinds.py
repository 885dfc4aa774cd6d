"""Whole steps of nets whose features are of other kinds, and of other sizes."""

import copy

import pytest
import torch
from mmpretrain.structures import DataSample
from mmrazor.models.architectures.connectors.base_connector import BaseConnector
from mmrazor.registry import MODELS
from tiny import distillation
from torch import nn
from torch.testing import assert_close

from cakd_mm.models.resizing import resize
from cakd_mm.utils.repdistiller_weights import ARCHS

# Of images of 16 x 16 pixels the maps are 16, 8 and 4 high, of 16, 32, 64 channels.
CNN = dict(
    type='ImageClassifier',
    backbone=ARCHS['resnet8'].backbone,
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
    _scope_='mmpretrain',
)
PATCHES, STAGE = 'backbone.layers.1', 'backbone.stage3'


def vit(width=12, patch=4, **backbone):
    """A class token and 16 patches, if these are 4 pixels high."""
    sizes = dict(num_layers=2, num_heads=2, feedforward_channels=16)
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='VisionTransformer',
            arch=dict(embed_dims=width, **sizes),
            img_size=16,
            patch_size=patch,
            **backbone,
        ),
        head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=width),
        _scope_='mmpretrain',
    )


def distiller(ours, theirs, connectors, loss=None, **entries):
    """Feed a loss with two modules; ``S`` and ``T`` add to their entries."""
    records = {
        f'preds_{side}': dict(recorder='f', from_student=side == 'S') for side in 'ST'
    }
    for side, options in entries.items():
        records[f'preds_{side}'].update(options)
    return dict(
        type='StrictDistiller',
        student_recorders=dict(
            f=dict(type='ModuleOutputs', source=ours),
            gt_labels=dict(type='ModuleInputs', source='head.loss_module'),
        ),
        teacher_recorders=dict(f=dict(type='ModuleOutputs', source=theirs)),
        connectors=connectors,
        distill_losses=dict(loss_f=loss or dict(type='FeatureKLLoss')),
        loss_forward_mappings=dict(loss_f=records),
    )


def build(distiller, student=CNN, teacher=CNN):
    return distillation(distiller, student, teacher)


def step(model):
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    samples = [DataSample().set_gt_label(i) for i in range(4)]
    return model(images, samples, mode='loss')


def compared(model, ours, theirs):
    """Train a step; return the losses, and what two modules put out in it."""
    seen = {}
    for net, source in ((model.student, ours), (model.teacher, theirs)):

        def keep(module, args, output, net=net):
            seen.setdefault(net, output)  # Checks may run a net once more.

        net.get_submodule(source).register_forward_hook(keep)
    return step(model), seen[model.student], seen[model.teacher]


def check_taught(model, losses):
    """The student and all connectors are trained, and the teacher is not."""
    sum(x for name, x in losses.items() if name.startswith('distill')).backward()
    reached = [p for p in model.student.parameters() if p.grad is not None]
    assert max(float(p.grad.abs().max()) for p in reached) > 0
    assert all(p.grad.abs().max() > 0 for p in model.distiller.parameters())
    assert all(p.grad is None for p in model.teacher.parameters())


# From each kind to each other

PAIRS = {
    'map to tokens': (CNN, STAGE, vit(), PATCHES),
    'tokens to map': (vit(), PATCHES, CNN, STAGE),
    'tokens to larger map': (vit(), PATCHES, CNN, 'backbone.stage2'),
    'tokens to fewer tokens': (vit(), PATCHES, vit(16, patch=8), PATCHES),
    'tokens to more tokens': (vit(16, patch=8), PATCHES, vit(), PATCHES),
    'tokens to vector': (vit(), PATCHES, CNN, 'neck'),
}
TOKEN_LOSSES = [
    dict(type='FeatureKLLoss'),
    dict(type='FeatureSquaredLoss', standardize=True),
    dict(type='CAKDFeatureLoss'),
    dict(type='CAKDFeatureLoss', scorer=dict(type='ScoringNetwork', num_classes=10)),
]
MAP_LOSSES = [
    dict(type='CAKDFeatureLoss', granularity='channel'),
    dict(type='CAKDFeatureLoss', granularity='spatial'),
    dict(type='FeatureKLLoss', granularity='flat'),
    dict(type='FeatureSquaredLoss', granularity='spatial', standardize=True),
    dict(
        type='CAKDFeatureLoss',
        granularity='channel',
        scorer=dict(type='ScoringNetwork', num_classes=10),
    ),
]


@pytest.mark.parametrize(
    ('pair', 'kind', 'loss'),
    [
        *(('map to tokens', 'MapToTokensConnector', x) for x in TOKEN_LOSSES),
        *(('tokens to map', 'TokensToMapConnector', x) for x in MAP_LOSSES),
        ('tokens to larger map', 'TokensToMapConnector', MAP_LOSSES[0]),
        ('tokens to fewer tokens', 'TokensConnector', TOKEN_LOSSES[0]),
        ('tokens to more tokens', 'TokensConnector', TOKEN_LOSSES[0]),
        ('tokens to vector', 'TokensToVectorConnector', TOKEN_LOSSES[0]),
    ],
)
def test_one_step_from_kind_to_kind(pair, kind, loss):
    student, ours, teacher, theirs = PAIRS[pair]
    fit = dict(type=kind)
    labels = dict(recorder='gt_labels', from_student=True, data_idx=1)
    places = dict(S=dict(connector='fit'))
    if theirs == 'neck':
        places['T'] = dict(data_idx=0)
    cfg = distiller(ours, theirs, dict(fit=fit), loss, **places)
    cfg['loss_forward_mappings']['loss_f']['gt_labels'] = labels
    model = build(cfg, student, teacher)
    own = copy.deepcopy(model.distiller.distill_losses['loss_f'])
    losses, feature, goal = compared(model, ours, theirs)
    goal = goal[0] if isinstance(goal, tuple) else goal
    fitted = model.distiller.connectors['fit'](feature, goal)
    assert fitted.shape == goal.shape
    assert_close(losses['distill.loss_f'], own(fitted, goal, torch.arange(4)))
    assert losses['distill.loss_f'] > 0
    check_taught(model, losses)


def test_a_connector_on_the_teachers_side_has_no_layer():
    """Patches of a ViT alone are compared with a map, in both layouts."""
    drop = dict(type='TokensConnector', extra='drop')
    fit = dict(type='MapToTokensConnector', extra='drop')
    places = dict(S=dict(connector='fit'), T=dict(connector='patches'))
    model = build(
        distiller(STAGE, PATCHES, dict(fit=fit, patches=drop), **places), CNN, vit(64)
    )
    losses, ours, theirs = compared(model, STAGE, PATCHES)
    loss = model.distiller.distill_losses['loss_f']
    rows = model.distiller.connectors['fit'].linear(ours.flatten(2).transpose(1, 2))
    assert_close(losses['distill.loss_f'], loss(rows, theirs[:, 1:]))
    as_map = dict(type='TokensToMapConnector')
    fit = dict(type='MapConnector', in_channels=32, out_channels=12)
    source = 'backbone.stage2'
    channel = dict(type='FeatureKLLoss', granularity='channel')
    model = build(
        distiller(source, PATCHES, dict(fit=fit, patches=as_map), channel, **places),
        CNN,
        vit(),
    )
    losses, ours, theirs = compared(model, source, PATCHES)
    fitted = model.distiller.connectors['fit'](ours)
    assert fitted.shape[2:] == (8, 8)
    rows = nn.functional.avg_pool2d(fitted, 2).flatten(2).transpose(1, 2)
    assert_close(losses['distill.loss_f'], loss(rows, theirs[:, 1:]))
    check_taught(model, losses)


# Maps of unequal sizes


@pytest.mark.parametrize('goal', ['backbone.stage1', 'backbone.stage3'])
def test_a_map_comes_to_the_teachers_size(goal):
    """The student's is 8 x 8; those of the teacher are 16 x 16 and 4 x 4."""
    source, width = 'backbone.stage2', 16 if goal.endswith('1') else 64
    fit = dict(type='MapConnector', in_channels=32, out_channels=width)
    loss = dict(type='FeatureKLLoss', granularity='spatial')
    model = build(distiller(source, goal, dict(fit=fit), loss, S=dict(connector='fit')))
    losses, ours, theirs = compared(model, source, goal)
    fitted = model.distiller.connectors['fit'](ours)
    assert fitted.shape[2:] == (8, 8)
    resized = resize(fitted, tuple(theirs.shape[2:]))
    expected = model.distiller.distill_losses['loss_f'](resized, theirs)
    assert_close(losses['distill.loss_f'], expected)
    check_taught(model, losses)


def ofd(sources, fits):
    """OFD between lists of maps, with margins of the teacher's last norms."""
    names = list(sources)
    parameter = dict(type='Parameter', source='backbone.stage2.0.bn2.weight')
    recorders = {
        name: dict(type='ModuleOutputs', source=f'backbone.{source}')
        for name, source in sources.items()
    }
    entry = dict(recorder=names, from_student=True, connector=list(fits))
    own = dict(recorder=names, from_student=False)
    margins = dict(recorder=['norm'] * len(names), from_student=False)
    return dict(
        type='StrictDistiller',
        student_recorders=dict(f=dict(type='ModuleOutputs', source='backbone.stage3')),
        teacher_recorders=dict(**recorders, norm=parameter),
        connectors=fits,
        distill_losses=dict(loss_f=dict(type='OFDFeatureLoss')),
        loss_forward_mappings=dict(
            loss_f=dict(
                preds_S=dict(entry, recorder=['f'] * len(names)),
                preds_T=own,
                bn_weights=margins,
                bn_biases=margins,
            )
        ),
    )


def test_a_loss_that_takes_maps_of_any_size_gets_them_as_they_are():
    """OFD averages the teacher's map, and a pooled one has no size."""
    fit = dict(type='MapConnector', in_channels=64, out_channels=32)
    model = build(ofd(dict(f='stage2'), dict(fit=fit)))
    losses, ours, theirs = compared(model, 'backbone.stage3', 'backbone.stage2')
    fitted = model.distiller.connectors['fit'](ours)
    assert fitted.shape[2:] == (4, 4) != theirs.shape[2:]
    weight = model.teacher.backbone.stage2[0].bn2.weight
    loss = model.distiller.distill_losses['loss_f']
    assert torch.equal(
        losses['distill.loss_f'], loss([fitted], [theirs], [weight], [weight])
    )
    places = dict(S=dict(connector='fit'))
    model = build(distiller(STAGE, 'backbone.stage2', dict(fit=fit), **places))
    losses, ours, theirs = compared(model, STAGE, 'backbone.stage2')
    fitted = model.distiller.connectors['fit'](ours)
    loss = model.distiller.distill_losses['loss_f']
    assert torch.equal(losses['distill.loss_f'], loss(fitted, theirs))
    crd = dict(type='CRDBankLoss', channels_S=32, channels_T=32)
    model = build(distiller(STAGE, 'backbone.stage2', dict(fit=fit), crd, **places))
    assert model.distiller.connectors['fit'].keeps_size
    # One connector may feed two losses, of which one needs equal sizes.
    cfg = distiller(STAGE, 'backbone.stage2', dict(fit=fit), **places)
    cfg['distill_losses']['loss_g'] = dict(type='FeatureKLLoss', granularity='flat')
    mappings = cfg['loss_forward_mappings']
    mappings['loss_g'] = mappings['loss_f']
    model = build(cfg)
    assert not model.distiller.connectors['fit'].keeps_size
    assert step(model)['distill.loss_g'] > 0


def test_reviewkd_of_maps_of_unequal_sizes():
    """The nearest pixels are taken, as where the sizes are written."""
    widths = dict(in_channels=[32, 64], out_channels=[16, 32])
    cfg = ofd(dict(a='stage1', b='stage2'), dict(fuse=None))
    fuse = dict(type='FusionConnector', **widths)
    record = dict(recorder=['b', 'f'], from_student=True, connector='fuse')
    cfg.update(
        connectors=dict(fuse=fuse),
        distill_losses=dict(loss_f=dict(type='HCLLoss')),
        loss_forward_mappings=dict(
            loss_f=dict(
                preds_S=record, preds_T=dict(recorder=['a', 'b'], from_student=False)
            )
        ),
    )
    cfg['student_recorders']['b'] = dict(type='ModuleOutputs', source='backbone.stage2')
    model = build(cfg)
    losses = step(model)
    written = copy.deepcopy(cfg)
    written['connectors']['fuse']['out_sizes'] = [16, 8]
    assert torch.equal(losses['distill.loss_f'], step(build(written))['distill.loss_f'])
    assert losses['distill.loss_f'] > 0
    check_taught(model, losses)


# What a connector sees


@MODELS.register_module(force=True)
class SeeingConnector(BaseConnector):
    """It keeps what it is given."""

    sees_teacher = True

    def __init__(self, takes_list=False):
        super().__init__()
        self.calls = []

    def forward(self, feature, teacher):
        self.calls.append((feature, teacher))
        return self.forward_train(feature)

    def forward_train(self, feature):
        return feature


@MODELS.register_module(force=True)
class SeeingListConnector(SeeingConnector):
    takes_list = True


@MODELS.register_module(force=True)
class HalvingConnector(BaseConnector):
    """It sees no teacher, and has no layer."""

    def forward_train(self, feature):
        return feature / 2


@MODELS.register_module(force=True)
class SquareLossOfOthers(nn.Module):
    """A loss of a stock library, whose arguments have other names."""

    def forward(self, s_feature, t_feature):
        return (s_feature - t_feature).square().mean()


SEE, HALVE = dict(type='SeeingConnector'), dict(type='HalvingConnector')


@pytest.mark.parametrize('first', ['S', 'T'])
@pytest.mark.parametrize('names', ['preds_{}', '{}_feature'])
def test_a_connector_sees_what_the_loss_gets_of_the_teacher(first, names):
    """After the teacher's connector, detached, whatever stands first."""
    own = names != 'preds_{}'
    loss = dict(type='SquareLossOfOthers') if own else dict(type='FeatureSquaredLoss')
    places = dict(S=dict(connector='see'), T=dict(connector='halve'))
    cfg = distiller(STAGE, STAGE, dict(see=SEE, halve=HALVE), loss, **places)
    mapping = cfg['loss_forward_mappings']['loss_f']
    order = ['S', 'T'] if first == 'S' else ['T', 'S']
    cfg['loss_forward_mappings']['loss_f'] = {
        names.format(side.lower() if own else side): mapping[f'preds_{side}']
        for side in order
    }
    model = build(cfg)
    _, ours, theirs = compared(model, STAGE, STAGE)
    ((feature, teacher),) = model.distiller.connectors['see'].calls
    assert feature is ours
    assert torch.equal(teacher, theirs / 2)
    assert not teacher.requires_grad


def test_the_teachers_own_connector_runs_once_and_sees_nothing():
    places = dict(S=dict(connector='see'), T=dict(connector='other'))
    model = build(distiller(STAGE, STAGE, dict(see=SEE, other=SEE), **places))
    _, _, theirs = compared(model, STAGE, STAGE)
    ((feature, teacher),) = model.distiller.connectors['other'].calls
    assert feature is theirs and teacher is None
    assert len(model.distiller.connectors['see'].calls) == 1


def test_a_connector_sees_no_gradient_even_of_another_feature_of_the_student():
    cfg = distiller(STAGE, STAGE, dict(see=SEE), S=dict(connector='see'))
    cfg['student_recorders']['g'] = dict(
        type='ModuleOutputs', source='backbone.stage3.0.conv2'
    )
    cfg['loss_forward_mappings']['loss_f']['preds_T'] = dict(
        recorder='g', from_student=True
    )
    model = build(cfg)
    step(model)
    ((feature, teacher),) = model.distiller.connectors['see'].calls
    assert feature.requires_grad and not teacher.requires_grad


def test_connectors_of_lists_see_the_teachers_list():
    cfg = ofd(dict(a='stage2', b='stage3'), dict(see=SEE, halve=HALVE))
    cfg['distill_losses']['loss_f']['type'] = 'HCLLoss'
    mapping = cfg['loss_forward_mappings']['loss_f']
    del mapping['bn_weights'], mapping['bn_biases']
    mapping['preds_S'].update(recorder=['f', 'f'], connector=[None, 'see'])
    mapping['preds_T'].update(recorder=['b', 'b'], connector=['halve', None])
    model = build(cfg)
    _, ours, theirs = compared(model, STAGE, STAGE)
    ((feature, teacher),) = model.distiller.connectors['see'].calls
    assert feature is ours
    assert torch.equal(teacher, theirs)
    # One connector of a whole list sees the whole list.
    cfg['connectors']['see'] = dict(type='SeeingListConnector')
    mapping['preds_S'].update(connector='see')
    model = build(cfg)
    _, ours, theirs = compared(model, STAGE, STAGE)
    ((feature, teacher),) = model.distiller.connectors['see'].calls
    assert feature[0] is feature[1] is ours
    assert torch.equal(teacher[0], theirs / 2)
    assert torch.equal(teacher[1], theirs)


def test_a_step_of_several_sees_the_teacher_if_it_wants_to():
    row = [HALVE, SEE, HALVE, SEE]
    cfg = distiller(STAGE, STAGE, dict(row=row), S=dict(connector='row'))
    model = build(cfg)
    _, ours, theirs = compared(model, STAGE, STAGE)
    steps = model.distiller.connectors['row']
    for index, divisor in ((1, 2), (3, 4)):
        ((feature, teacher),) = steps[index].calls
        assert torch.equal(feature, ours / divisor)
        assert torch.equal(teacher, theirs)
    assert [*model.distiller.state_dict()] == []
    cfg['connectors']['row'] = [HALVE, HALVE]
    model = build(cfg)
    assert not model.distiller.connectors['row'].sees_teacher
    assert step(model)['distill.loss_f'] > 0


def test_without_a_partner_there_is_nothing_to_see():
    @MODELS.register_module(force=True)
    class AloneLoss(nn.Module):
        def forward(self, preds_S):
            return preds_S.square().mean()

    loss = dict(type='AloneLoss')
    cfg = distiller(STAGE, STAGE, dict(see=SEE), loss, S=dict(connector='see'))
    del cfg['loss_forward_mappings']['loss_f']['preds_T']
    model = build(cfg)
    step(model)
    assert model.distiller.connectors['see'].calls[0][1] is None


def test_what_is_fed_can_be_asked_for_by_name():
    cfg = distiller(STAGE, STAGE, dict(see=SEE), S=dict(connector='see'))
    model = build(cfg)
    _, ours, theirs = compared(model, STAGE, STAGE)
    found = model.distiller.fed('loss_f', 'preds_S')
    assert found is ours
    assert torch.equal(model.distiller.connectors['see'].calls[-1][1], theirs)
    assert model.distiller.fed('loss_f', 'preds_T') is theirs


# Mistakes


@pytest.mark.parametrize(
    ('pair', 'kind'),
    [
        ('map to tokens', 'MapToTokensConnector'),
        ('tokens to map', 'TokensToMapConnector'),
        ('tokens to fewer tokens', 'TokensConnector'),
        ('tokens to vector', 'TokensToVectorConnector'),
    ],
)
def test_the_message_names_the_connector_that_helps(pair, kind):
    student, ours, teacher, theirs = PAIRS[pair]
    granularity = 'channel' if pair == 'tokens to map' else 'pooled'
    loss = dict(type='FeatureKLLoss', granularity=granularity)
    places = dict(T=dict(data_idx=0)) if theirs == 'neck' else {}
    match = rf"preds_S` = .*preds_T \(.*type='{kind}'"
    with pytest.raises(ValueError, match=match):
        step(build(distiller(ours, theirs, {}, loss, **places), student, teacher))


def test_errors_of_connectors_name_their_key():
    start = r'model\.distiller\.connectors\.fit'
    fit = dict(type='TokensToMapConnector', extra_tokens=0)
    cfg = distiller(PATCHES, STAGE, dict(fit=fit), S=dict(connector='fit'))
    with pytest.raises(ValueError, match=rf'^`{start}\.grid` = None: There are 17'):
        step(build(cfg, vit()))
    fit['extra'] = 'use'
    with pytest.raises(ValueError, match=rf"^`{start}\.extra` = 'use': It is one of"):
        build(cfg, vit())


# Layers on the teacher's side

FIT = dict(type='MapConnector', in_channels=64, out_channels=64)


@MODELS.register_module(force=True)
class FrozenFitConnector(BaseConnector):
    """As mmrazor's Paraphraser, whose weights another run has trained."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(64, 64, 1)

    @torch.no_grad()
    def forward_train(self, feature):
        return self.layer(feature)


def layered(loss=None, fit=FIT, ours=None):
    places = dict(S=dict(connector=ours) if ours else {}, T=dict(connector='fit'))
    return build(distiller(STAGE, STAGE, dict(fit=fit), loss, **places))


@pytest.mark.parametrize('fit', [FIT, [HALVE, FIT]], ids=['one', 'row'])
def test_random_layers_that_nothing_trains_are_refused(fit):
    match = r'^`model\.distiller\.loss_forward_mappings\.loss_f\.preds_T\.connector` = '
    with pytest.raises(ValueError, match=match + "'fit': Nothing trains its layers"):
        step(layered(fit=fit))


def test_layers_of_the_teachers_side_that_are_trained_or_loaded(tmp_path):
    others = dict(type='LossThatTrainsBoth')

    @MODELS.register_module(force=True)
    class LossThatTrainsBoth(nn.Module):
        def forward(self, preds_S, preds_T):
            return (preds_S - preds_T).square().mean()

    model = layered(loss=others)
    step(model)['distill.loss_f'].backward()
    assert model.distiller.connectors['fit'].conv_module.conv.weight.grad.any()
    assert step(layered(ours='fit'))['distill.loss_f'] > 0
    assert step(layered(fit=dict(type='FrozenFitConnector')))['distill.loss_f'] > 0
    weights = str(tmp_path / 'fit.pth')
    torch.save(model.distiller.connectors['fit'].state_dict(), weights)
    loaded = dict(FIT, init_cfg=dict(type='Pretrained', checkpoint=weights))
    assert step(layered(fit=loaded))['distill.loss_f'] > 0
