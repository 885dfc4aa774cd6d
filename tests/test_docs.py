"""What the pages in docs/ show is trained for a step, as a new user would."""

import math
import re
import sys

import pytest
import torch
from mmengine.config import Config
from mmpretrain import get_model
from mmrazor.registry import MODELS
from pages import ROOT, blocks, check_losses, losses_of, train_page
from tiny import CONFIGS, distill_config

GUIDES = 'docs/guides'
PAIR, LEAF, COMBINATION = blocks(f'{GUIDES}/pair.md')
LOSS, METHOD, STUDENT, IN_PYTHON = blocks(f'{GUIDES}/loss.md')
(SCORER,) = blocks(f'{GUIDES}/scorer.md')
FEATURE, TAPS, KINDS, PATCHES = blocks(f'{GUIDES}/features.md')
TIMM, VIT = blocks(f'{GUIDES}/transformers.md')
TEACHERS, MIXED, CLASSES, IMAGES = blocks(f'{GUIDES}/teachers.md')
_, DEIT = blocks(f'{GUIDES}/heads.md')
(FAST,) = blocks(f'{GUIDES}/speed.md')
(RESIDENT,) = blocks(f'{GUIDES}/data.md')
(CLUSTERS,) = blocks(f'{GUIDES}/clusters.md')
VIEWS, OWN_VIEWS, OF_VIEWS = blocks(f'{GUIDES}/two_views.md')
# Pages whose blocks are run here.
HERE = {'pair', 'loss', 'scorer', 'features', 'transformers', 'teachers', 'heads'}
HERE |= {'clusters', 'speed', 'data', 'two_views'}
COVERED = {f'{GUIDES}/{name}.md' for name in HERE}
# tests/test_tasks/test_dense_page.py runs this one,
COVERED |= {f'{GUIDES}/dense.md'}
# tests/test_own_data.py these,
OWN_DATA = ('own_images_by_hand', 'variations', 'students_out')
COVERED |= {f'{GUIDES}/{name}.md' for name in OWN_DATA}
# and tests/test_visualization/test_trackers_hook.py this one.
COVERED |= {f'{GUIDES}/visualizers.md'}


def test_every_page_with_a_config_is_trained():
    pages = {
        page.relative_to(ROOT).as_posix()
        for folder in ('start', 'guides')
        for page in (ROOT / 'docs' / folder).rglob('*.md')
        if '```python' in page.read_text(encoding='utf-8')
    }
    assert pages == COVERED


def test_a_pair():
    """tests/test_readme.py trains it."""
    assert blocks('README.md', heading='A pair of your own') == [PAIR]


def test_another_method_for_a_pair(tmp_path):
    runner = train_page(LEAF, tmp_path)
    student = runner.model.student
    assert sum(p.numel() for p in student.parameters()) == 1_233_540
    assert runner.model.teacher.backbone.conv1.out_channels == 16
    assert set(losses_of(runner)) == {'student.loss', 'distill.loss_dkd'}


def test_a_combination(tmp_path):
    runner = train_page(COMBINATION, tmp_path)
    assert {'distill.loss_review', 'distill.loss_dist'} <= set(losses_of(runner))


LOGIT = ('cakd', 'dkd', 'nkd', 'kd', 'dist', 'ctkd', 'cmkd', 'wttm', 'ldrld')


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


def test_a_loss_of_your_own(tmp_path, monkeypatch):
    """Three files, in a folder outside this repository."""
    for code in (LOSS, METHOD):
        name = re.match(r'# (\w+\.py)\n', code)[1]
        (tmp_path / name).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)  # as PYTHONPATH=. does
    try:
        runner = train_page(STUDENT, tmp_path, size=16)
        assert set(losses_of(runner)) == {'student.loss', 'distill.loss_spread'}
        loss = runner.model.distiller.distill_losses['loss_spread']
        student, teacher = torch.eye(3), torch.zeros(3, 3)
        assert loss(student, teacher + 5).item() == pytest.approx(2 / 9)
        assert loss.terms['spread'].item() == pytest.approx(2 / 9)
    finally:
        MODELS.module_dict.pop('SpreadLoss', None)
        sys.modules.pop('my_loss', None)


def test_the_losses_from_python():
    check_losses(IN_PYTHON)


def test_features(tmp_path):
    runner = train_page(FEATURE, tmp_path, size=64)
    distiller = runner.model.distiller
    connector = distiller.connectors['feature'].linear
    assert (connector.in_features, connector.out_features) == (1280, 2048)
    assert {'distill.loss_cakd', 'distill.loss_feature'} <= set(losses_of(runner))
    loss = distiller.distill_losses['loss_feature']
    assert type(loss.scorer).__name__ == 'ActivationScorer'
    assert distiller.balancer.ratio == 0.5
    assert distiller.warmup == 1 / 20  # in the first of the page's 20 epochs


def test_the_taps_of_a_net_are_printed(capsys):
    exec(TAPS, {})
    printed = capsys.readouterr().out.splitlines()
    assert 'tokens 192 backbone.ln1' in printed
    assert 'classifier 1000 head.layers.head' in printed


def test_from_one_kind_of_feature_to_another(tmp_path):
    """All tokens of the teacher, and those of its patches alone."""
    last = 'model = dict('
    for count, page in ((17, KINDS), (16, KINDS.replace(last, PATCHES + last))):
        runner = train_page(page, tmp_path, size=16)
        assert losses_of(runner)['distill.loss_feature'] > 0
        for argument in ('preds_S', 'preds_T'):
            found = runner.model.distiller.fed('loss_feature', argument)
            assert found.shape == (4, count, 64)


@pytest.mark.parametrize(
    ('granularity', 'shape'), [('pooled', (4, 8)), ('channel', (4, 8, 3, 3))]
)
def test_a_scorer_of_your_own(granularity, shape):
    try:
        exec(SCORER, {})
        scorer = dict(type='PeakScorer')
        loss = dict(type='CAKDFeatureLoss', scorer=scorer, granularity=granularity)
        assert MODELS.build(loss)(torch.randn(shape), torch.rand(shape)) > 0
    finally:
        MODELS.module_dict.pop('PeakScorer', None)


def test_other_clusters_of_cakd(tmp_path):
    runner = train_page(CLUSTERS, tmp_path)
    losses = runner.model.distiller.distill_losses
    scorer = losses.loss_feature.scorer
    assert scorer.means.shape == (10, 64)
    assert scorer.counts.sum() > 0
    for loss in losses.values():
        assert loss.shares.squares.batches > 0
        assert {'bcd_weight', 'scd_weight', 'wcd_weight'} <= set(loss.terms)
    assert losses.loss_cakd.terms['scd'] > 0


def test_features_of_a_vit(tmp_path):
    runner = train_page(VIT, tmp_path, size=16)
    assert type(runner.model.teacher.backbone).__name__ == 'VisionTransformer'
    assert {'distill.loss_cakd', 'distill.loss_feature'} <= set(losses_of(runner))


def test_a_teacher_of_timm(tmp_path):
    runner = train_page(TIMM, tmp_path, size=16)
    assert type(runner.model.teacher.model).__module__ == 'timm.models.resnet'
    assert set(losses_of(runner)) == {'student.loss', 'distill.loss_cakd'}


def test_several_teachers(tmp_path):
    runner = train_page(TEACHERS, tmp_path, size=16)
    assert list(runner.model.teacher.teachers) == ['a', 'b']
    assert runner.model.teacher.head.weights == [2 / 3, 1 / 3]
    assert set(losses_of(runner)) == {'student.loss', 'distill.loss_kd'}


def test_features_of_one_teacher_and_logits_of_another(tmp_path):
    pytest.importorskip('timm')
    entry = 'model__teacher__0__net'
    small = {f'{entry}__model_name': 'test_vit'}
    small[f'{entry}__data_preprocessor__size'] = 160
    runner = train_page(MIXED, tmp_path, size=16, **small)
    assert runner.model.teacher.image_maps['dino'].size == (160, 160)
    assert runner.model.distiller.connectors.pooled.linear.out_features == 64
    names = {'student.loss', 'distill.loss_cakd', 'distill.loss_token'}
    assert set(losses_of(runner)) == names


def test_a_teacher_of_other_classes_and_one_of_other_images(tmp_path):
    runner = train_page(CLASSES, tmp_path, size=16)
    assert runner.model.teacher.head.fc.out_features == 10
    runner = train_page(IMAGES, tmp_path, size=16)
    assert runner.model.teacher_image_map.size == (32, 32)


@pytest.mark.usefixtures('traced_only')
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


def test_two_views_for_a_method(tmp_path, make_runner):
    """The images of the page's own data set are as large as those of Digits here."""
    leaf = tmp_path / 'leaf.py'
    steps = OWN_VIEWS.replace('224', '16').replace("    dict(type='LoadImage", '#')
    start = VIEWS.rpartition('train_dataloader')[0]
    for page in (VIEWS, start + steps):
        leaf.write_text(page)
        runner = make_runner(distill_config(tmp_path, leaf, epochs=1, images=32))
        runner.train()
        for side in (True, False):
            rows = runner.model.distiller.fed('loss_dkd', f'preds_{"TS"[side]}')
            assert rows.shape == (64, 10)
        labels = runner.model.distiller.fed('loss_dkd', 'gt_labels')
        assert torch.equal(labels[:32], labels[32:])


def test_a_loss_of_two_views():
    try:
        exec(OF_VIEWS, {})
        loss = MODELS.build(dict(type='WeakToStrongLoss', loss_weight=2.0))
        student = torch.tensor([[9.0, 0.0], [0.0, 0.0]])
        assert loss(student, torch.randn(2, 2)).item() == pytest.approx(2 * math.log(2))
        assert loss.views == 2
    finally:
        MODELS.module_dict.pop('WeakToStrongLoss', None)
