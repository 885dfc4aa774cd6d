"""LevelLoss: a loss for each level, against the losses one by one."""

import copy
import math

import pytest
import torch
from mmengine.config import Config
from mmrazor.registry import MODELS
from ranks import two_ranks
from tiny import CONFIGS, image_classifier
from torch.testing import assert_close

from cakd_mm.models.algorithms.widths import fill_widths
from cakd_mm.models.statistics import share_rows
from cakd_mm.models.term_axis import TermAxis
from cakd_mm.visualization.term_labels import describe_term

N, C = 2, 6
SIZES = ((4, 6), (2, 3), (1, 1))
CHANNEL = dict(type='CAKDFeatureLoss', granularity='channel', tau=2.0)


def build(loss=CHANNEL, levels=3, **settings):
    cfg = dict(type='LevelLoss', loss=loss, levels=levels, **settings)
    return MODELS.build({k: v for k, v in cfg.items() if v is not None}).double()


def pyramid(seed=0, classes=C, sizes=SIZES, batch=N):
    """Maps of each level, of the student and of the teacher."""
    draw = torch.Generator().manual_seed(seed)
    levels = [
        torch.randn(2, batch, classes, *size, generator=draw, dtype=torch.float64)
        for size in sizes
    ]
    return [list(net) for net in zip(*levels, strict=True)]


@pytest.mark.parametrize('weights', [None, [1.0, 0.25, 3.0]])
@pytest.mark.parametrize('granularity', ['channel', 'spatial', 'flat', 'pooled'])
def test_it_is_the_weighted_mean_of_losses_of_their_own(granularity, weights):
    cfg = dict(CHANNEL, granularity=granularity, gamma='adaptive')
    loss = build(cfg, weights=weights, loss_weight=0.7).train()
    alone = [MODELS.build(cfg).double().train() for _ in SIZES]
    for seed in range(2):
        ours, theirs = pyramid(seed)
        theirs = [x.abs() for x in theirs]
        leaves = [x.clone().requires_grad_() for x in ours]
        value = loss(leaves, theirs)
        grads = torch.autograd.grad(value, leaves)
        copies = [x.clone().requires_grad_() for x in ours]
        values = [own(*pair) for own, *pair in zip(alone, copies, theirs, strict=True)]
        factors = [0.7 / 3 * w for w in weights or [1.0] * 3]
        want = sum(w * x for w, x in zip(factors, values, strict=True))
        assert_close(value, want, rtol=1e-12, atol=1e-14)
        assert_close(list(grads), list(torch.autograd.grad(want, copies)))
        for name, term in alone[0].terms.items():
            terms = [own.terms[name] for own in alone]
            assert_close(loss.terms[name], sum(terms) / 3)
            for level, own in enumerate(terms):
                assert_close(loss.terms[f'{name}_{level}'], own)
            assert loss.terms[name].shape == () == term.shape
    for own, other in zip(loss.losses, alone, strict=True):
        assert_close(own.state_dict(), other.state_dict())
    ratios = {float(own.ratio) for own in alone}
    assert len(ratios) == 3  # each level has met other activations


def test_each_level_draws_scores_of_its_own():
    loss = build(dict(CHANNEL, scorer=dict(type='RandomScorer')))
    assert len({int(own.scorer.seed) for own in loss.losses}) == 3


def test_class_scores_of_a_heads_levels():
    """The anchors of all levels, by hand: a sigmoid of each class."""
    anchors, classes = 2, 3
    ours, theirs = pyramid(classes=anchors * classes)
    dense = dict(type='DenseLoss', num_classes=classes, loss=dict(type='SigmoidKDLoss'))
    loss = build(dense)
    means = []
    for student, teacher in zip(ours, theirs, strict=True):
        kl = 0.0
        for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist()):  # noqa: B905
            q, p = (1 / (1 + math.exp(-z)) for z in (s, t))
            kl += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        means.append(kl / (student.numel() / classes))
    assert float(loss(ours, theirs)) == pytest.approx(sum(means) / 3)
    assert float(loss.terms['present_1'] + loss.terms['absent_1']) == pytest.approx(
        means[1]
    )


def test_other_arguments_go_to_each_level_and_lists_are_dealt_out():
    ours, theirs = pyramid()
    dense = dict(type='DenseLoss', loss=dict(type='NKDLoss'))
    loss, alone = build(dense), MODELS.build(dense).double()
    draw = torch.Generator().manual_seed(5)
    whole = torch.randint(C, (N, 8, 12), generator=draw)
    each = [torch.randint(C, (N, *size), generator=draw) for size in SIZES]
    for given, of_level in ((whole, [whole] * 3), (each, each), (tuple(each), each)):
        values = [alone(*row) for row in zip(ours, theirs, of_level, strict=True)]
        assert_close(loss(ours, theirs, given), sum(values) / 3)


def test_a_head_goes_to_the_losses_that_take_one():
    draw = torch.Generator().manual_seed(0)
    ours, theirs = ([x.mean((2, 3)) for x in net] for net in pyramid())
    weight = torch.randn(4, C, generator=draw, dtype=torch.float64)
    loss = build(dict(type='CAKDFeatureLoss'))
    loss(ours, theirs, head_weight=weight, head_bias=weight[:, 0])
    assert {f'kept_strong_{i}' for i in range(3)} <= loss.terms.keys()


def test_losses_of_several_kinds():
    ours, theirs = pyramid(sizes=SIZES[:2])
    kinds = [CHANNEL, dict(type='FeatureKLLoss', granularity='flat')]
    loss = build(kinds, levels=None)
    want = [MODELS.build(cfg).double() for cfg in kinds]
    values = [own(*pair) for own, *pair in zip(want, ours, theirs, strict=True)]
    assert_close(loss(ours, theirs), sum(values) / 2)
    assert_close(loss.terms['bcd'], want[0].terms['bcd'])
    assert 'bcd_1' not in loss.terms and loss.terms['kl_1'] == loss.terms['kl']


# What the losses within declare


def test_scorers_of_all_levels_are_trained():
    scorer = dict(type='ScoringNetwork', channels=C, num_classes=4)
    loss = build(dict(CHANNEL, scorer=scorer)).train()
    assert loss.auxiliary is None and loss.one_class
    ours, theirs = pyramid()
    loss(ours, theirs, gt_labels=torch.tensor([1, 3]))
    parts = [own.auxiliary for own in loss.losses]
    assert_close(loss.auxiliary, sum(parts))
    loss.auxiliary.backward()
    assert all(x.grad.abs().sum() > 0 for x in loss.parameters())
    assert 'level' not in (loss.warning({'r_0': 1.0, 'bcd': 2.0}) or '')


def test_a_warning_names_its_level():
    loss = build(dict(CHANNEL, gamma='adaptive'))
    text = loss.warning({'r': 300.0, 'r_0': 1.0, 'r_1': 1.0, 'r_2': 900.0})
    assert text.startswith('level 2: ') and 'r = 900' in text
    assert loss.warning({'r': 300.0, 'r_0': 1.0}) is None


def test_it_hands_on_what_it_is_told():
    loss = build(dict(CHANNEL, scorer=dict(type='RandomScorer'))).train()
    loss.queue, loss.probing = [], False
    assert loss.uses_indices
    loss.indices = torch.tensor([4, 9])
    loss(*pyramid())
    assert [mean for mean, _ in loss.queue] == [x.activation for x in loss.losses]
    for own in loss.losses:
        assert own.scorer.images.tolist() == [4, 9] and own.probing is False
    assert loss.indices is None


def test_losses_of_the_epoch_and_of_the_training_set():
    ctkd = build(dict(type='CTKDLoss'))
    assert ctkd.needs_epoch and not ctkd.needs_dataset
    ctkd.set_epoch(4)
    assert [x.epoch for x in ctkd.losses] == [4] * 3
    sizes = dict(channels_S=C, channels_T=C, feat_dim=4, negatives=3)
    bank = MODELS.build(dict(type='CRDBankLoss', **sizes))
    mixed = build([bank, dict(type='KDLoss')], levels=None)
    assert mixed.needs_dataset and not mixed.needs_epoch
    mixed.set_dataset(torch.arange(12) % 3, 0, 4)
    assert mixed.losses[0].state_dict()


@pytest.mark.parametrize('queued', [False, True])
def test_two_ranks_are_one(tmp_path, queued):
    """Norms and ratios of all levels are those of the whole batch."""
    cfg = dict(CHANNEL, standardize=True, channels=C)

    def state(part):
        loss = build(cfg).train()
        loss.queue = [] if queued else None
        ours, theirs = ([x[part] for x in net] for net in pyramid(batch=4))
        share_rows(loss.norm_batches(dict(preds_S=ours, preds_T=theirs)))
        loss(ours, theirs)
        return loss.state_dict()

    def rank(number):
        return state(slice(number, None, 2))

    one, two = two_ranks(rank, tmp_path)
    want = build(cfg).train()
    want.queue = [] if queued else None
    want(*pyramid(batch=4))
    assert_close(one, two, rtol=0, atol=0)
    assert_close(one, want.state_dict(), rtol=1e-5, atol=1e-6)


def test_the_terms_of_a_level_have_the_axis_of_all():
    loss = build()
    for level in range(3):
        entry = TermAxis.DIVERGENCE, f'bcd_{level}: between the clusters, level {level}'
        assert (
            loss.term_labels[f'bcd_{level}'] == entry == describe_term(f'bcd_{level}')
        )
    assert describe_term('bcd')[1] == 'BCD: between the clusters'
    assert describe_term('level_1')[1].startswith('level_1: of feature')
    assert describe_term('unknown_1') == (TermAxis.OTHER, 'unknown_1')
    assert describe_term('bcd_') == (TermAxis.OTHER, 'bcd_')


# Widths


def resnet(widths, classes=10):
    backbone = dict(type='CIFARResNet', depth=8, widths=widths)
    return image_classifier(backbone, widths[-1], classes)


def distiller(loss, taps=('stage1', 'stage2', 'stage3')):
    recorders = {tap: dict(type='Tap', source=tap) for tap in taps}
    each = dict(recorder=list(taps))
    return dict(
        type='StrictDistiller',
        student_recorders=recorders,
        teacher_recorders=recorders,
        distill_losses=dict(loss_a=loss),
        loss_forward_mappings=dict(
            loss_a=dict(
                preds_S=dict(each, from_student=True),
                preds_T=dict(each, from_student=False),
            )
        ),
    )


def filled(loss, **taps):
    nets = resnet((4, 5, 6, 7)), resnet((4, 8, 9, 10), classes=11)
    return fill_widths(distiller(loss, **taps), *nets)


def test_levels_and_widths_are_those_of_the_taps():
    scorer = dict(type='ScoringNetwork')
    cfg = dict(CHANNEL, standardize=True, strong_share=0.3, scorer=scorer)
    cfg = dict(type='LevelLoss', loss=dict(type='DenseLoss', loss=cfg))
    before = copy.deepcopy(cfg)
    got = filled(cfg)
    assert cfg == before
    for part, width in zip(
        got['distill_losses']['loss_a']['loss'], (8, 9, 10), strict=True
    ):
        inner = part['loss']
        assert inner['channels'] == inner['scorer']['channels'] == width
        assert (inner['scorer']['num_classes'], inner['scorer']['share']) == (11, 0.3)
    # Each is a config of its own.
    assert len({id(x) for x in got['distill_losses']['loss_a']['loss']}) == 3
    loss = MODELS.build(got).distill_losses['loss_a']
    assert [len(x.loss.norm.mean) for x in loss.losses] == [8, 9, 10]


def test_a_list_of_configs_is_filled_and_a_width_stays():
    standard = dict(CHANNEL, standardize=True)
    parts = [standard, dict(standard, channels=77), dict(type='FeatureKLLoss')]
    got = filled(dict(type='LevelLoss', loss=parts, levels=3))
    losses = got['distill_losses']['loss_a']['loss']
    assert [x.get('channels') for x in losses] == [8, 77, None]


def test_a_dense_loss_asks_for_the_widths_of_the_loss_within():
    ctkd = dict(type='CTKDLoss', instance_wise=True)
    got = filled(dict(type='LevelLoss', loss=dict(type='DenseLoss', loss=ctkd)))
    for part in got['distill_losses']['loss_a']['loss']:
        assert part['loss']['num_classes'] == 11


def test_what_does_not_fit_the_taps_is_left_for_the_loss_to_refuse():
    for given in (dict(levels=2), dict(loss=[CHANNEL] * 2)):
        cfg = {**dict(type='LevelLoss', loss=dict(CHANNEL)), **given}
        assert filled(cfg)['distill_losses']['loss_a'] == cfg


def test_one_tap_of_all_levels_leaves_widths_to_the_config():
    cfg = dict(type='LevelLoss', loss=dict(CHANNEL, standardize=True), levels=2)
    both = distiller(cfg, taps=('stage1',))
    for record in both['loss_forward_mappings']['loss_a'].values():
        record['recorder'] = 'stage1'
    nets = resnet((4, 5, 6, 7)), resnet((4, 8, 9, 10))
    with pytest.raises(ValueError, match=r'loss_a\.loss\.0\.channels=64 and .*loss\.1'):
        fill_widths(both, *nets)
    cfg['loss']['channels'] = 8
    assert len(fill_widths(both, *nets)['distill_losses']['loss_a']['loss']) == 2


@pytest.mark.parametrize(
    ('name', 'levels'),
    [
        *(('cakd_fpn', 5), ('cakd_scores', 5), ('kd_scores', 5)),
        *(('cakd_pixel', 1), ('kd_pixel', 1)),
    ],
)
def test_a_method_base_makes_a_distiller(name, levels):
    """Without a net, so that the widths are written."""
    cfg = Config.fromfile(CONFIGS / f'_base_/methods/{name}.py').distiller
    [(key, loss)] = cfg.distill_losses.items()
    if levels > 1:
        taps = cfg.loss_forward_mappings[key].preds_S.recorder
        assert len(taps) == len(set(taps)) == levels
        loss.update(levels=levels)
    if name == 'cakd_fpn':
        loss.loss.update(channels=C)
    made = MODELS.build(cfg).distill_losses[key]
    sizes = [(9 - 2 * i, 8 - i) for i in range(levels - 1)] + [(1, 1)]
    ours, theirs = ([x.float() for x in net] for net in pyramid(sizes=sizes))
    if levels == 1:
        labels = torch.tensor([2, 255]).view(N, 1, 1)
        fed = (labels,) if name == 'cakd_pixel' else ()
        assert made(ours[0], theirs[0], *fed) > 0
    else:
        assert made(ours, theirs) > 0


# Mistakes


@pytest.mark.parametrize(
    ('cfg', 'error', 'text'),
    [
        ({}, ValueError, '`levels` = None.*not known.*Write levels=5'),
        (dict(levels=0), ValueError, '`levels` = 0'),
        (dict(loss=[CHANNEL], levels=2), ValueError, '`levels` = 2.*has 1 entries'),
        (dict(loss=[]), ValueError, '`levels` = None.*has 0 entries'),
        (dict(loss=[CHANNEL, 3]), TypeError, r'`loss\.1` = 3'),
        (dict(loss=[CHANNEL, {}]), TypeError, r'`loss\.1\.type` = None'),
        (dict(levels=2, weights=[1.0]), ValueError, r'`weights` = \[1\.0\].*2 levels'),
        (dict(levels=2, weights=1.0), TypeError, r'weights must be a list.*\[1\.0, 1'),
        (dict(levels=2, weights=[1.0, -1]), ValueError, 'weights must be a non-neg'),
        (dict(levels=2, weights=[1.0, True]), ValueError, 'weights must be a non-neg'),
        (
            dict(loss=torch.nn.KLDivLoss(), levels=2),
            ValueError,
            "`loss` = 'KLDivLoss'.*a loss of its own",
        ),
    ],
)
def test_a_wrong_setting_is_named(cfg, error, text):
    with pytest.raises(error, match=text):
        MODELS.build({**dict(type='LevelLoss', loss=CHANNEL), **cfg})


def test_a_wrong_part_of_a_list_is_named_in_a_distiller():
    loss = dict(type='LevelLoss', loss=[CHANNEL, dict(CHANNEL, taus=3)])
    with pytest.raises(TypeError, match=r'distill_losses\.loss_a\.loss\.1\.taus'):
        MODELS.build(distiller(loss, taps=('stage1', 'stage2')))
    loss['loss'][1] = dict(CHANNEL, strong_share=2)
    with pytest.raises(ValueError, match=r'loss_a\.loss\.1\.strong_share` = 2'):
        MODELS.build(distiller(loss, taps=('stage1', 'stage2')))


OURS, THEIRS = pyramid()
LABELS = torch.tensor([1, 0])


@pytest.mark.parametrize(
    ('cfg', 'fed', 'error', 'text'),
    [
        ({}, (OURS[0], THEIRS), TypeError, 'preds_S must be a list of maps.*Tensor'),
        ({}, (OURS, THEIRS[0]), TypeError, 'preds_T must be a list of maps.*Tensor'),
        ({}, (OURS, None), TypeError, 'preds_T must be a list of maps.*NoneType'),
        ({}, (OURS[:2], THEIRS), ValueError, 'preds_S has 2 entries, .*3 levels'),
        ({}, (OURS, THEIRS[:2]), ValueError, 'preds_T has 2 entries, .*3 levels'),
        ({}, (OURS, THEIRS, [LABELS]), ValueError, 'gt_labels has 1 entries'),
        (
            dict(loss=dict(type='KDLoss')),
            (OURS, THEIRS, LABELS),
            ValueError,
            'gt_labels is mapped, and KDLoss of level 0',
        ),
        ({}, (OURS, [THEIRS[0], *THEIRS[:2]]), ValueError, 'preds_S has shape'),
    ],
)
def test_a_wrong_input_is_named(cfg, fed, error, text):
    with pytest.raises(error, match=text):
        build(**cfg)(*fed)
