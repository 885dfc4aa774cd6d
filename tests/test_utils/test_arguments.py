"""Misspelt arguments of a config, found before they reach a class."""

import pytest
from mmengine.registry import HOOKS, DefaultScope
from mmrazor.registry import MODELS, TASK_UTILS
from torch import nn

from cakd_mm.engine.hooks import StudentEMAHook
from cakd_mm.models.algorithms import FrozenTeacherDistill
from cakd_mm.models.distillers import StrictDistiller
from cakd_mm.utils.arguments import (
    arguments_of,
    check_arguments,
    check_part,
    class_of,
)


class Parent:
    def __init__(self, a, *, b=1):
        pass


class Child(Parent):
    def __init__(self, c, **kwargs):
        super().__init__(**kwargs)


class Module(nn.Module):
    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)


class Inherits(Child):
    pass


class Elsewhere(Parent):
    """Gives what it is given to somebody else, as mmengine's EMAHook does."""

    def __init__(self, a, **kwargs):
        super().__init__(a)
        self.rest = kwargs


Elsewhere.__module__ = 'somebody.hooks'
for kind in (Child, Module):
    kind.__module__ = 'cakd_mm.somewhere'


class Own(Elsewhere):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)


Own.__module__ = 'cakd_mm.somewhere'


@pytest.mark.parametrize(
    ('kind', 'expected'),
    [
        (Parent, {'a', 'b'}),
        (Child, {'a', 'b', 'c'}),
        (Inherits, {'a', 'b', 'c'}),
        (Module, {'width'}),
        (object, set()),
    ],
)
def test_the_arguments_of_a_class(kind, expected):
    assert arguments_of(kind) == expected


@pytest.mark.parametrize('kind', [Elsewhere, Own, StudentEMAHook])
def test_what_goes_elsewhere_may_have_any_name(kind):
    assert arguments_of(kind) is None
    check_arguments(kind, dict(a=1, whatever=1), 'x')


def test_what_mmrazor_passes_on():
    assert 'student_trainable' in arguments_of(FrozenTeacherDistill)
    assert 'init_cfg' in arguments_of(StrictDistiller)


def test_a_misspelt_argument():
    check_arguments(Child, dict(a=1, b=1, c=1, type='X', _scope_='y'), 'model.part')
    with pytest.raises(TypeError, match=r"`model\.part\.bb` = 7: Child .*'b'"):
        check_arguments(Child, dict(a=1, bb=7), 'model.part')


def test_a_class_of_another_project():
    with (
        DefaultScope.overwrite_default_scope('mmrazor'),
        pytest.raises(KeyError, match="Like it: 'mmpretrain.TimmClassifier'"),
    ):
        class_of(dict(type='TimmClassifier'), MODELS, 'model.teacher')


LOSS = dict(type='CAKDFeatureLoss', scorer=dict(type='ScoringNetwork', share=0.5))


@pytest.mark.parametrize(
    ('change', 'key', 'like'),
    [
        (dict(gama=2.0), 'd.gama', 'gamma'),
        (dict(scorer=dict(type='ScoringNetwork', shar=1)), 'd.scorer.shar', 'share'),
    ],
)
def test_parts_within_parts(change, key, like):
    with DefaultScope.overwrite_default_scope('mmrazor'):
        check_part(LOSS, MODELS, 'd')
        with pytest.raises(TypeError, match=f'`{key}` .*{like!r}'):
            check_part({**LOSS, **change}, MODELS, 'd')
        with pytest.raises(TypeError, match=f'`d.1{key[1:]}` '):
            check_part([LOSS, {**LOSS, **change}], MODELS, 'd')


@pytest.mark.parametrize(
    'cfg', [None, 'text', nn.ReLU(), {}, dict(x=1), [], dict(type=len, x=1)]
)
def test_what_is_left_to_those_who_build_it(cfg):
    check_part(cfg, MODELS, 'd')


def test_only_one_package():
    cfg = dict(type='mmrazor.KLDivergence', taau=1)
    check_part(cfg, MODELS, 'd', only='cakd_mm')
    with pytest.raises(TypeError, match=r"`d\.taau` .*'tau'"):
        check_part(cfg, MODELS, 'd')


def test_only_parts_of_ours_are_looked_at_within_a_part():
    """mmcv takes `requires_grad` out of a norm_cfg, which no layer knows."""
    norm = dict(type='BN', requires_grad=True)
    cfg = dict(type='ConvModuleConnector', in_channel=4, out_channel=4, norm_cfg=norm)
    with DefaultScope.overwrite_default_scope('mmrazor'):
        check_part(cfg, MODELS, 'd')
        with pytest.raises(TypeError, match=r'`d\.in_chanel`'):
            check_part(dict(cfg, in_chanel=4), MODELS, 'd')
        assert MODELS.build(cfg) is not None


def test_what_a_builder_reads_beside_the_arguments():
    cfg = dict(type='mmrazor.KLDivergence', priority='LOW')
    check_part(cfg, MODELS, 'd', beside=('priority',))
    with pytest.raises(TypeError, match=r'`d\.priority`'):
        check_part(cfg, MODELS, 'd')


@pytest.mark.parametrize(
    ('name', 'suffix', 'registry', 'like', 'given'),
    [
        ('CAKDLogitLos', '', MODELS, 'CAKDLogitLoss', {}),
        ('ModuleOutput', 'Recorder', TASK_UTILS, 'ModuleOutputs', dict(source='head')),
        ('StudentEmaHook', '', HOOKS, 'StudentEMAHook', {}),
    ],
)
def test_a_misspelt_type(name, suffix, registry, like, given):
    with DefaultScope.overwrite_default_scope('mmrazor'):
        match = f'`d.type` = {name!r}.*{like!r}.*custom_imports'
        with pytest.raises(KeyError, match=match):
            check_part(dict(type=name), registry, 'd', suffix)
        check_part(dict(type=like, **given), registry, 'd', suffix)


def test_types_within_a_part_may_be_somebody_else_s():
    """`init_cfg` names an initialiser, which is in another registry."""
    init = dict(type='Kaiming', layer='Conv2d')
    cfg = dict(type='ImageClassifier', backbone=dict(type='X'), init_cfg=init)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        check_part(cfg, MODELS, 'd')
        with pytest.raises(TypeError, match=r"`d\.backbonee` = .*'backbone'"):
            check_part(dict(cfg, backbonee=1), MODELS, 'd')
