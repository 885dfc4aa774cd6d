"""What a distiller's config cannot be, told before anything is built."""

import re

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from tiny import CONFIGS

from cakd_mm.models.distillers import StrictDistiller

METHOD = CONFIGS / '_base_/methods/cakd_logit_feature.py'
MAPPING = 'loss_forward_mappings.loss_cakd'
UNREFERENCED = dict(_delete_=True, type='LossRatioBalancer', losses=['loss_feature'])


def check(**changes):
    cfg = Config.fromfile(METHOD)
    cfg.merge_from_dict({f'distiller.{key}': x for key, x in changes.items()})
    with DefaultScope.overwrite_default_scope('mmrazor'):
        StrictDistiller.check_config(cfg.distiller)


def test_what_is_right():
    check()


@pytest.mark.parametrize(
    ('key', 'value', 'named'),
    [
        ('student_recorders', [], 'student_recorders'),
        ('student_recorders.logits', None, 'student_recorders.logits'),
        ('student_recorders.logits.source', None, 'student_recorders.logits.source'),
        ('student_recorders.logits.source', '', 'student_recorders.logits.source'),
        ('student_recorders.logits.source', 7, 'student_recorders.logits.source'),
        ('balancer', UNREFERENCED, 'balancer.reference'),
        ('student_recorders.logits.type', None, 'student_recorders.logits.type'),
        ('student_recorders.x', dict(source='head'), 'student_recorders.x.type'),
        ('teacher_recorders.x', dict(type='Parameter'), 'teacher_recorders.x.source'),
        ('connectors.feature', 7, 'connectors.feature'),
        ('connectors.feature', [7], 'connectors.feature.0'),
        ('connectors.feature.bias', 'abc', 'connectors.feature.bias'),
        ('distill_losses.loss_cakd.tau', float('nan'), 'distill_losses.loss_cakd.tau'),
        ('distill_losses.loss_cakd.type', 7, 'distill_losses.loss_cakd.type'),
        ('loss_forward_mappings', 'abc', 'loss_forward_mappings'),
        (MAPPING, [], MAPPING),
        (f'{MAPPING}.preds_S', 7, f'{MAPPING}.preds_S'),
        (f'{MAPPING}.preds_S.recorder', 7, f'{MAPPING}.preds_S.recorder'),
        (f'{MAPPING}.preds_S.recorder', 'logit', f'{MAPPING}.preds_S.recorder'),
        (f'{MAPPING}.preds_S.recorder', ['logits', 7], f'{MAPPING}.preds_S.recorder.1'),
        (f'{MAPPING}.preds_S.from_student', False, f'{MAPPING}.preds_S.from_student'),
        (f'{MAPPING}.preds_T.from_student', True, f'{MAPPING}.preds_T.from_student'),
        (f'{MAPPING}.preds_S.from_student', 1, f'{MAPPING}.preds_S.from_student'),
        (f'{MAPPING}.preds_S.data_idx', 'abc', f'{MAPPING}.preds_S.data_idx'),
        (f'{MAPPING}.preds_S.conector', 'x', f'{MAPPING}.preds_S.conector'),
        (f'{MAPPING}.pred_S', dict(recorder='logits'), f'{MAPPING}.pred_S'),
        ('balancer', [], 'balancer'),
        ('balancer.limits', [1.0], 'balancer.limits'),
        ('balancer.ratio', 'abc', 'balancer.ratio'),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(key, value, named):
    expected = re.escape(f'`model.distiller.{named}` = ')
    with pytest.raises((KeyError, TypeError, ValueError), match=expected):
        check(**{key: value})


def test_nothing_is_left_out():
    """A recorder that is misspelt is named, and what would have been there."""
    cfg = Config.fromfile(METHOD).distiller
    cfg.student_recorders.featur = cfg.student_recorders.pop('feature')
    expected = r'no `.*student_recorders\.feature`; .*student_recorders\.featur'
    with (
        DefaultScope.overwrite_default_scope('mmrazor'),
        pytest.raises(ValueError, match=expected),
    ):
        StrictDistiller.check_config(cfg)


@pytest.mark.parametrize(
    ('record', 'side'),
    [
        (dict(gt_labels=dict(from_student=False)), True),
        (dict(preds_T=dict(recorder='head_bias', from_student=True)), False),
    ],
)
def test_a_recorder_of_the_other_net_is_pointed_at(record, side):
    with pytest.raises(ValueError, match=f'has it: from_student={side},'):
        check(**{MAPPING: record})


def test_the_student_may_learn_from_another_tap_of_its_own():
    check(**{f'{MAPPING}.preds_T': dict(recorder='feature', from_student=True)})
