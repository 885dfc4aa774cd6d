"""What the pages in docs/ show is trained for a step, as a new user would."""

import re

import pytest
import torch
from mmengine.config import Config
from mmpretrain import get_model
from mmrazor.registry import MODELS
from pages import ROOT, blocks, losses_of, train_page
from tiny import CONFIGS

PAGE = 'docs/guides/pair_and_method.md'
PAIR, COMBINATION, METHOD = blocks(PAGE)
(FAST,) = blocks('docs/guides/speed.md')
(RESIDENT,) = blocks('docs/guides/data.md')
_, DEIT = blocks('docs/guides/heads.md')
# Pages whose blocks are trained here or in a test of their own.
TEACHERS, HEADS = 'docs/guides/teachers.md', 'docs/guides/heads.md'
COVERED = {PAGE, TEACHERS, HEADS}
COVERED |= {
    'docs/guides/visualizers.md',
    'docs/guides/speed.md',
    'docs/guides/data.md',
    'docs/start/own_images.md',
}


def test_every_page_with_a_config_is_trained():
    pages = {
        page.relative_to(ROOT).as_posix()
        for page in (ROOT / 'docs').rglob('*.md')
        if '```python' in page.read_text(encoding='utf-8')
    }
    assert pages == COVERED


def test_a_pair(tmp_path):
    runner = train_page(PAIR, tmp_path)
    student = runner.model.student
    assert sum(p.numel() for p in student.parameters()) == 1_233_540
    assert runner.model.teacher.backbone.conv1.out_channels == 16
    assert set(losses_of(runner)) == {'student.loss', 'distill.loss_dkd'}


def test_a_combination(tmp_path):
    runner = train_page(COMBINATION, tmp_path)
    assert {'distill.loss_review', 'distill.loss_dist'} <= set(losses_of(runner))


LOGIT = ('cakd', 'dkd', 'nkd', 'kd', 'dist', 'ctkd', 'cmkd')


@pytest.mark.parametrize(
    ('logit', 'feature'),
    [
        *((logit, 'cakd_feature') for logit in LOGIT),
        *(('cakd', feature) for feature in ('crd', 'ofd', 'reviewkd')),
    ],
)
def test_logits_and_features_are_combined(tmp_path, logit, feature):
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


def test_a_student_with_a_distillation_token(tmp_path):
    """It is a plain net of mmpretrain afterwards, which has learned from both."""
    runner = train_page(DEIT, tmp_path, size=16)
    assert set(losses_of(runner)) == {'student.loss', 'distill.loss_deit'}
    plain = Config.fromfile(tmp_path / 'run' / 'student.py')
    assert plain.model.head.type == 'DeiTClsHead'
    loaded = get_model(plain, pretrained=str(tmp_path / 'run' / 'student.pth')).eval()
    images = torch.randn(2, 3, 16, 16)
    mean = runner.model.student.eval()(images, mode='tensor')
    assert torch.equal(loaded(images, mode='tensor'), mean)


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
        runner = train_page(leaf, tmp_path)
        assert set(losses_of(runner)) == {'student.loss', 'distill.loss_mine'}
    finally:
        MODELS._module_dict.pop('MyLoss')


def test_several_teachers(tmp_path):
    runner = train_page(blocks(TEACHERS)[0], tmp_path, size=16)
    assert list(runner.model.teacher.teachers) == ['a', 'b']
    assert runner.model.teacher.head.weights == [2 / 3, 1 / 3]
    assert set(losses_of(runner)) == {'student.loss', 'distill.loss_kd'}


def test_a_teacher_of_other_classes_and_one_of_other_images(tmp_path):
    _, classes, images = blocks(TEACHERS)
    runner = train_page(classes, tmp_path, size=16)
    assert runner.model.teacher.head.fc.out_features == 10
    runner = train_page(images, tmp_path, size=16)
    assert runner.model.teacher_image_map.size == (32, 32)


def test_a_fast_leaf(tmp_path):
    shallow = dict(model__teacher__backbone__depth=8)  # which compiles sooner
    runner = train_page(FAST, tmp_path, **shallow)
    assert runner.model.teacher_runtime.settings()['dtype'] == 'auto'
    assert runner.model.teacher_runtime._eager is not None  # it was run
    assert type(runner.train_dataloader.dataset).__name__ == 'ResidentDataset'
    assert type(runner.val_loop).__name__ == 'ResidentValLoop'
    hooks = {type(hook).__name__ for hook in runner.hooks}
    assert {'StudentRuntimeHook', 'FiniteLossHook', 'ExtractStudentHook'} <= hooks


def test_resident_data(tmp_path):
    """The page shows lines for any config."""
    runner = train_page(
        f"_base_ = 'cakd_mm::cakd/demo_digits.py'\n{RESIDENT}", tmp_path
    )
    assert type(runner.train_dataloader.dataset).__name__ == 'ResidentDataset'
    assert type(runner.val_dataloader.dataset).__name__ == 'ResidentDataset'
