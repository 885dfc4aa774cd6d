"""What mmrazor's distiller trains on silently is refused here, by name."""

import copy
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmrazor.registry import MODELS
from tiny import CONFIGS, build

from cakd_mm.models.distillers.strict_distiller import in_float32
from cakd_mm.models.losses import CAKDLogitLoss
from cakd_mm.models.losses.base import DistillLoss

PREFIX = r'model\.distiller\.'


@pytest.fixture
def cfg():
    return Config.fromfile(CONFIGS / 'cakd/demo_digits.py').model.distiller


@pytest.fixture
def net():
    return build(Config.fromfile(CONFIGS / 'vanilla/resnet8_digits.py').model)


def make(cfg):
    with DefaultScope.overwrite_default_scope('mmrazor'):
        return MODELS.build(copy.deepcopy(cfg))


def test_a_loss_that_nothing_feeds(cfg):
    cfg.distill_losses.loss_more = dict(type='L2Loss')
    with pytest.raises(ValueError, match=PREFIX + r'distill_losses\.loss_more.*L2Loss'):
        make(cfg)


def test_a_mapping_without_a_loss(cfg):
    cfg.loss_forward_mappings.loss_kd = cfg.loss_forward_mappings.loss_cakd
    with pytest.raises(ValueError, match=r"mappings\.loss_kd.*like it: 'loss_cakd'"):
        make(cfg)


def test_an_argument_left_out(cfg):
    del cfg.loss_forward_mappings.loss_cakd['gt_labels']
    with pytest.raises(ValueError, match=r"CAKDLogitLoss.*needs 'gt_labels'"):
        make(cfg)


def test_an_argument_the_loss_does_not_take(cfg):
    mapping = cfg.loss_forward_mappings.loss_cakd
    mapping.labels = mapping.gt_labels
    with pytest.raises(ValueError, match=r"loss_cakd\.labels.*'gt_labels'"):
        make(cfg)


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        (
            dict(recorder='logit'),
            r"preds_S\.recorder` = 'logit'.*recorders\.logits'",
        ),
        (dict(from_student='yes'), r'preds_S\.from_student.*True or False'),
        (dict(connector='fit'), r"preds_S\.connector` = 'fit'"),
    ],
)
def test_a_record_that_is_not_there(cfg, change, expected):
    cfg.loss_forward_mappings.loss_cakd.preds_S.update(change)
    with pytest.raises((TypeError, ValueError), match=PREFIX + '.*' + expected):
        make(cfg)


def test_the_needed_recorder_is_missing_altogether(cfg):
    cfg.teacher_recorders = None
    with pytest.raises(ValueError, match=r'no .*teacher_recorders\.logits`'):
        make(cfg)


@pytest.mark.parametrize('side', ['student', 'teacher'])
@pytest.mark.parametrize(
    ('kind', 'source', 'problem'),
    [
        ('ModuleOutputs', 'head.fcc', r"'head\.fcc'.*'head\.fc'"),
        ('Tap', 'stage9', "'stage9': CIFARResNet has no place"),
        ('TapParameter', 'stage9.weight', "'stage9': CIFARResNet has no place"),
        ('TapParameter', 'stage1_norm.gamma', "'stage1_norm.gamma': .*'bias'"),
    ],
)
def test_a_source_that_does_not_exist(cfg, net, side, kind, source, problem):
    recorders = cfg[f'{side}_recorders']
    recorders.map, recorders.more = dict(type=kind, source=source), recorders.logits
    expected = rf'^`{PREFIX}{side}_recorders\.map\.source` = .*{problem}'
    with pytest.raises(ValueError, match=expected):
        getattr(make(cfg), f'prepare_from_{side}')(net)


def test_a_tap_that_is_overwritten(cfg, net):
    for name in ('map', 'other'):
        cfg.student_recorders[name] = dict(type='Tap', source='stage2')
    distiller = make(cfg)
    distiller.prepare_from_student(net)
    net.backbone.stage3[0].register_forward_pre_hook(lambda _, x: x[0].mul_(2))
    with torch.no_grad(), distiller.student_recorders:
        net(torch.zeros(2, 3, 16, 16), mode='tensor')
    for name in ('map', 'other'):
        expected = rf"^`{PREFIX}student_recorders\.{name}\.source` = 'stage2'.*overwr"
        with pytest.raises(ValueError, match=expected):
            distiller.get_record(name, True)


def test_a_recorder_that_saw_nothing(cfg, net):
    distiller = make(cfg)
    distiller.prepare_from_student(net)
    with distiller.student_recorders:
        net(torch.zeros(2, 3, 16, 16), mode='tensor')  # computes no loss
    assert distiller.get_record('logits', True).shape == (2, 10)
    with pytest.raises(ValueError, match=r'gt_labels\.source.*not run.*loss_module'):
        distiller.get_record('gt_labels', True, data_idx=1)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_becomes_float32(dtype):
    half = torch.tensor([0.1, -3.0], dtype=dtype, requires_grad=True)
    whole = in_float32(half)
    assert whole.dtype is torch.float32
    assert whole.tolist() == half.tolist()
    (2 * whole).sum().backward()
    assert half.grad.tolist() == [2, 2]
    assert half.grad.dtype is dtype
    for kept in (torch.ones(2), torch.ones(2).double(), torch.arange(2), None):
        assert in_float32(kept) is kept
        first, second = in_float32((half, kept))
        assert first.dtype is torch.float32
        assert second is kept


SCORER = dict(type='ScoringNetwork', chanels=4)
FIT = dict(type='PooledConnector', in_chanels=4)


@pytest.mark.parametrize(
    ('change', 'key', 'like'),
    [
        ({'distill_losses.loss_cakd.taw': 4.0}, 'distill_losses.loss_cakd.taw', 'tau'),
        (
            {'distill_losses.loss_cakd': dict(type='CAKDFeatureLoss', scorer=SCORER)},
            *('distill_losses.loss_cakd.scorer.chanels', 'channels'),
        ),
        ({'connectors.fit': FIT}, 'connectors.fit.in_chanels', 'in_channels'),
        ({'connectors.fit': [FIT]}, 'connectors.fit.0.in_chanels', 'in_channels'),
        (
            {'student_recorders.logits.sorce': 'head'},
            *('student_recorders.logits.sorce', 'source'),
        ),
        (
            {'teacher_recorders.tap': dict(type='Tap', sources='stage1')},
            *('teacher_recorders.tap.sources', 'source'),
        ),
        (
            {'balancer': dict(type='LossRatioBalancer', ration=2.0)},
            *('balancer.ration', 'ratio'),
        ),
        ({'distil_losses': dict()}, 'distil_losses', 'distill_losses'),
    ],
    ids=str,
)
def test_a_misspelt_argument(cfg, change, key, like):
    whole = Config(dict(distiller=cfg))
    whole.merge_from_dict({f'distiller.{k}': v for k, v in change.items()})
    with pytest.raises(TypeError, match=rf'`{PREFIX}{re.escape(key)}` = .*{like!r}'):
        make(whole.distiller)


@pytest.mark.parametrize('kind', [DistillLoss, CAKDLogitLoss])
def test_a_loss_may_say_its_own_terms(cfg, kind, monkeypatch):
    class Own(kind):
        def forward(self, preds_S, preds_T, gt_labels):
            self.log_terms(gap=preds_S.mean(-1))
            return super().forward(preds_S, preds_T, gt_labels)

        @property
        def terms(self):
            return {**super().terms, 'root': torch.tensor(4.0).sqrt()}

    if kind is DistillLoss:
        monkeypatch.setattr(Own.__base__, 'forward', lambda *_: None)
    distiller = make(cfg)
    loss = Own()
    distiller.distill_losses['loss_cakd'] = loss
    scores = torch.randn(2, 3)
    loss(scores, scores, torch.zeros(2).long())
    terms = distiller.terms()
    assert terms['cakd/root'] == 2
    expected = {f'cakd/{name}' for name in loss.terms}
    assert terms.keys() == expected
    assert len(expected) > 1
