"""What the pages in docs/ show is run, as a new user would."""

import re

import pytest
import torch
from mmengine.config import Config
from mmrazor.registry import MODELS
from test_readme import step
from tiny import CONFIGS

SPEED = (CONFIGS.parent / 'docs' / 'speed.md').read_text(encoding='utf-8')
PAGE = (CONFIGS.parent / 'docs' / 'new_pair_and_method.md').read_text(encoding='utf-8')
PAIR, COMBINATION, METHOD = re.findall(r'```python\n(.*?)```', PAGE, flags=re.DOTALL)


def test_a_pair(tmp_path):
    found = step(PAIR, tmp_path, size=32)
    student = found['model'].student
    assert sum(p.numel() for p in student.parameters()) == 1_233_540
    assert found['model'].teacher.backbone.conv1.out_channels == 16
    assert set(found['losses']) == {'student.loss', 'distill.loss_dkd'}


def test_a_combination(tmp_path):
    found = step(COMBINATION, tmp_path, size=32)
    assert {'distill.loss_review', 'distill.loss_dist'} <= set(found['losses'])
    for name in ('distill.loss_review', 'distill.loss_dist'):
        found['model'].zero_grad()
        found['losses'][name].backward(retain_graph=True)
        first = found['model'].student.backbone.conv1.weight
        assert first.grad.abs().sum() > 0, name


LOGIT = ('cakd', 'dkd', 'nkd', 'kd', 'dist', 'ctkd', 'cmkd')


@pytest.mark.parametrize('logit', LOGIT)
@pytest.mark.parametrize('feature', ['crd', 'ofd', 'reviewkd', 'cakd_feature'])
def test_every_combination_is_built(tmp_path, logit, feature):
    """The loss and mapping of any base between logits fit any between features."""
    base = {'cakd': 'cakd_logit'}.get(logit, logit)
    method = Config.fromfile(CONFIGS / '_base_' / 'methods' / f'{base}.py').distiller
    pair = 'cakd_mm::_base_/pairs/r56_r20_cifar100.py'
    leaf = f"""
_base_ = [
    'cakd_mm::_base_/default_runtime.py',
    'cakd_mm::_base_/datasets/cifar100.py',
    '{pair}',
    'cakd_mm::_base_/methods/{feature}.py',
]
_base_.distiller.distill_losses.update({method.distill_losses!r})
_base_.distiller.loss_forward_mappings.update({method.loss_forward_mappings!r})
model = dict(distiller=_base_.distiller, teacher_ckpt='x.pth')
"""
    path = tmp_path / 'leaf.py'
    path.write_text(leaf)
    cfg = Config.fromfile(path)
    model = dict(cfg.model, teacher_ckpt=None, allow_random_teacher=True)
    model['data_preprocessor'] = cfg.data_preprocessor
    losses = MODELS.build(model).distiller.distill_losses
    assert len(losses) == 2
    assert f'loss_{logit}' in losses


def test_a_method(tmp_path):
    """A loss outside this repository, its base, and a leaf that uses it."""

    @MODELS.register_module(force=True)
    class MyLoss(torch.nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.weight = weight

        def forward(self, preds_S, preds_T):
            return self.weight * (preds_S - preds_T).square().mean()

    try:
        (tmp_path / 'mine.py').write_text(METHOD)
        leaf = PAIR.replace("'cakd_mm::_base_/methods/dkd.py'", "'./mine.py'")
        leaf = re.sub(r'_base_.distiller.distill_losses.loss_dkd.*\n', '', leaf)
        found = step(leaf, tmp_path, size=32)
        assert set(found['losses']) == {'student.loss', 'distill.loss_mine'}
    finally:
        MODELS._module_dict.pop('MyLoss')


def test_a_fast_leaf(tmp_path):
    (leaf,) = re.findall(r'```python\n(.*?)```', SPEED, flags=re.DOTALL)
    found = step(leaf, tmp_path, size=32)
    assert found['model'].teacher_runtime.settings()['dtype'] == 'auto'
    assert found['model'].teacher_runtime._eager is not None  # it was run
    cfg = Config.fromfile(tmp_path / 'own.py')
    assert cfg.train_cfg.resident
    assert cfg.train_cfg.type == 'ResumableTrainLoop'
    assert cfg.val_cfg == dict(type='ResidentValLoop')
    hooks = cfg.default_hooks
    assert hooks.student_runtime == dict(type='StudentRuntimeHook')
    assert {'finite', 'warmup', 'extract'} <= set(hooks)
