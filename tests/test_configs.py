"""Every config of the tree is loaded, built and run for one step."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from tiny import CONFIGS

from cakd_mm.utils.extract import image_shape, plain_config, student_model

LEAVES = sorted(
    path.relative_to(CONFIGS).as_posix()
    for path in CONFIGS.rglob('*.py')
    if '_base_' not in path.parts
)
DISTILLING = [name for name in LEAVES if not name.startswith('vanilla/')]


def build(cfg: dict):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(copy.deepcopy(cfg))


def batch(shape, classes, n=4):
    samples = [DataSample().set_gt_label(i % classes) for i in range(n)]
    images = torch.randint(0, 256, (n, *shape), dtype=torch.uint8)
    return {'inputs': images, 'data_samples': samples}


def test_there_are_configs():
    assert 'cakd/r34_r18_in1k.py' in LEAVES


@pytest.mark.parametrize('name', LEAVES)
def test_a_leaf_is_short_and_its_name_unique(name):
    lines = [x for x in (CONFIGS / name).read_text().splitlines() if x.strip()]
    if name in DISTILLING:
        assert len(lines) <= 12
    assert [Path(leaf).name for leaf in LEAVES].count(Path(name).name) == 1


@pytest.mark.parametrize('name', LEAVES)
def test_the_runtime_is_ours(name):
    cfg = Config.fromfile(CONFIGS / name)
    assert cfg.custom_imports.imports == ['cakd_mm']
    assert cfg.default_scope == 'mmpretrain'
    assert {'finite', 'labels', 'extract'} <= cfg.default_hooks.keys()
    assert cfg.train_cfg.type == 'ResumableTrainLoop'
    last = cfg.param_scheduler.get('milestones', [0])[-1]
    assert last < cfg.train_cfg.max_epochs


@pytest.mark.parametrize('name', [n for n in LEAVES if n not in DISTILLING])
def test_a_vanilla_config_does_a_step(name):
    cfg = Config.fromfile(CONFIGS / name)
    model = dict(cfg.model, data_preprocessor=cfg.data_preprocessor)
    model = build(model)
    model.init_weights()
    model.train()
    data = model.data_preprocessor(batch(image_shape(cfg), 10), True)
    loss = model(**data, mode='loss')['loss']
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize('name', DISTILLING)
def test_a_distillation_does_a_step(name, tmp_path):
    cfg = Config.fromfile(CONFIGS / name)
    teacher = build(cfg.model.teacher)
    torch.save({'state_dict': teacher.state_dict()}, tmp_path / 'teacher.pth')
    cfg.model.teacher_ckpt = str(tmp_path / 'teacher.pth')
    model = build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)).train()
    model.init_weights()
    shape = image_shape(plain_config(cfg))
    size = min(shape[1], 64)  # 224 pixels would only cost time
    classes = model.student.head.num_classes
    data = model.data_preprocessor(batch((shape[0], size, size), classes), True)
    losses = model(**data, mode='loss')
    declared = {f'distill.{loss}' for loss in cfg.model.distiller.distill_losses}
    scorers = {f'{x}.scorer_loss' for x in declared} & set(losses)
    assert set(losses) == {'student.loss', *declared, *scorers}
    for loss in declared:
        model.zero_grad()
        losses[loss].backward(retain_graph=True)
        assert torch.isfinite(losses[loss]) and losses[loss] > 0
        assert model.student.backbone.conv1.weight.grad.abs().sum() > 0


def count(model) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ('name', 'student', 'teacher'),
    [
        ('cakd/demo_digits.py', 78_042, 272_474),
        ('cakd/r34_r18_in1k.py', 11_689_512, 21_797_672),
    ],
)
def test_teacher_and_student_are_what_their_names_say(name, student, teacher):
    model = Config.fromfile(CONFIGS / name).model
    assert count(build(model.architecture)) == student
    assert count(build(model.teacher)) == teacher


def test_the_imagenet_recipe():
    cfg = Config.fromfile(CONFIGS / 'cakd/r34_r18_in1k.py')
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (
        0.2,
        0.9,
        1e-4,
    )
    assert cfg.param_scheduler.milestones == [30, 60, 90]
    assert (cfg.train_cfg.max_epochs, cfg.auto_scale_lr.base_batch_size) == (100, 512)
    assert cfg.train_dataloader.batch_size * 8 == 512
    loss = cfg.model.distiller.distill_losses.loss_cakd
    assert (loss.tau, loss.alpha, loss.gamma) == (1.0, 1.0, 0.5)
    student = student_model(cfg)
    assert (student.backbone.type, student.backbone.depth) == ('ResNet', 18)
