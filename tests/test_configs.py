"""Every config of the tree is loaded, built and run for one step."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
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
VANILLA = [name for name in LEAVES if name not in DISTILLING]
CIFAR_LIKE = ('cifar100', 'tinyimagenet')
# Size of the images and number of classes.
SETS = {
    'digits': (16, 10),
    'cifar10-16px': (16, 10),
    'cifar10-mini': (32, 10),
    'cifar100': (32, 100),
    'tinyimagenet': (32, 200),
    'in1k': (224, 1000),
}
# Parameters without the classifier, and the channels that takes. Those of the eight
# nets of the tables and of torchvision's are published, with 100 or 1,000 classes.
NETS = {
    'resnet8': (77_392, 64),
    'resnet20': (278_324 - 6_500, 64),
    'resnet56': (861_620 - 6_500, 64),
    'resnet8x4': (1_233_540 - 25_700, 256),
    'resnet32x4': (7_433_860 - 25_700, 256),
    'wrn16-2': (703_284 - 12_900, 128),
    'wrn40-2': (2_255_156 - 12_900, 128),
    'shufflenetv1': (949_258 - 96_100, 960),
    'shufflenetv2': (1_355_528 - 102_500, 1024),
    'vit-tiny': (138_304, 64),
    'resnet18': (11_689_512 - 513_000, 512),
    'resnet34': (21_797_672 - 513_000, 512),
    'resnet50': (25_557_032 - 2_049_000, 2048),
    'mobilenetv1': (4_231_976 - 1_025_000, 1024),
    'mobilenetv2': (3_504_872 - 1_281_000, 1280),
}


def build(cfg: dict):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(copy.deepcopy(cfg))


def name_of(leaf: str) -> tuple[str, str]:
    """Return net and data of a vanilla config's name."""
    net, data, *_ = Path(leaf).stem.split('_')
    return net, data


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


def batch(shape, classes, n=4):
    samples = [DataSample().set_gt_label(i % classes) for i in range(n)]
    images = torch.randint(0, 256, (n, *shape), dtype=torch.uint8)
    return {'inputs': images, 'data_samples': samples}


def test_there_are_configs():
    assert 'cakd/r34_r18_in1k.py' in LEAVES
    for net in ('resnet20', 'resnet56', 'resnet8x4', 'resnet32x4', 'wrn16-2'):
        assert {f'vanilla/{net}_{data}.py' for data in CIFAR_LIKE} <= {*LEAVES}
    for net in ('wrn40-2', 'shufflenetv1', 'shufflenetv2'):
        assert {f'vanilla/{net}_{data}.py' for data in CIFAR_LIKE} <= {*LEAVES}
    for net in ('resnet18', 'resnet34', 'resnet50', 'mobilenetv1', 'mobilenetv2'):
        assert f'vanilla/{net}_in1k.py' in LEAVES


def test_every_teacher_is_made_by_a_vanilla_run():
    """What a config says to run leaves the checkpoint that it looks for."""
    ablations = ['cakd/ablations/cifar10/cifar10_logit.py']
    for name in [n for n in DISTILLING if 'ablations' not in n] + ablations:
        cfg = Config.fromfile(CONFIGS / name)
        command, path = cfg.model.teacher_from, cfg.model.teacher_ckpt
        if 'from_torchvision' in command:
            assert path in command
            continue
        teacher = Path(command.rsplit(' ', 1)[-1])
        made = Config.fromfile(CONFIGS.parent / teacher)
        epoch = made.train_cfg.max_epochs
        assert path == f'work_dirs/{teacher.stem}/epoch_{epoch}.pth', name
        own = {k: v for k, v in cfg.model.teacher.items() if v is not None}
        assert own.pop('_scope_', 'mmpretrain') == 'mmpretrain'
        assert own == {k: v for k, v in made.model.items() if v is not None}, name


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


@pytest.mark.parametrize('name', VANILLA)
def test_a_vanilla_config_does_a_step(name):
    """One step of its own optimizer, on images of its own size and classes."""
    cfg = Config.fromfile(CONFIGS / name)
    model = build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    model.init_weights()
    model.train()
    shape, classes = image_shape(cfg), model.head.num_classes
    assert (shape[1], classes) == SETS[name_of(name)[1]]
    assert cfg.data_preprocessor.num_classes == classes
    before = {key: value.clone() for key, value in model.named_parameters()}
    wrapper = ConfigDict({'type': 'OptimWrapper', **cfg.optim_wrapper})
    wrapper = build_optim_wrapper(model, wrapper)
    logs = model.train_step(batch(shape, classes, n=2), wrapper)
    assert 0 < logs['loss'] < 3 * math.log(classes)
    after = dict(model.named_parameters())
    assert all(torch.isfinite(value).all() for value in after.values())
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    # mmpretrain's nets begin with some layers at zero, which hold others back.
    ours = type(model.backbone).__module__.startswith('cakd_mm')
    assert moved == set(after) if ours else any(key.startswith('head') for key in moved)


@pytest.mark.parametrize('name', VANILLA)
def test_a_vanilla_net_has_the_parameters_of_its_name(name):
    net, data = name_of(name)
    backbone, width = NETS[net]
    classes = SETS[data][1]
    model = build(Config.fromfile(CONFIGS / name).model)
    assert count(model.backbone) == backbone
    assert count(model) == backbone + (width + 1) * classes


@pytest.mark.parametrize('name', DISTILLING)
def test_a_distillation_does_a_step(name, tmp_path):
    cfg = Config.fromfile(CONFIGS / name)
    losses = cfg.model.distiller.distill_losses
    for loss in losses.values():
        if loss.type == 'CRDBankLoss':
            loss.negatives = 64  # of 200 images: 16,384 would only cost time
    teacher = build(cfg.model.teacher)
    torch.save({'state_dict': teacher.state_dict()}, tmp_path / 'teacher.pth')
    cfg.model.teacher_ckpt = str(tmp_path / 'teacher.pth')
    model = build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)).train()
    (tmp_path / 'teacher.pth').unlink()  # of 240 configs, gigabytes
    model.init_weights()
    shape = image_shape(plain_config(cfg))
    size = min(shape[1], 64)  # 224 pixels would only cost time
    classes = model.student.head.num_classes
    data = model.data_preprocessor(batch((shape[0], size, size), classes), True)
    for loss in model.distiller.distill_losses.values():  # as the hooks do
        if hasattr(loss, 'set_epoch'):
            loss.set_epoch(0)
        if hasattr(loss, 'set_dataset'):
            loss.set_dataset(np.arange(200) % classes, 0, 4)
            loss.indices = torch.arange(4)
    losses = model(**data, mode='loss')
    declared = {f'distill.{loss}' for loss in cfg.model.distiller.distill_losses}
    scorers = {f'{x}.scorer_loss' for x in declared} & set(losses)
    assert set(losses) == {'student.loss', *declared, *scorers}
    for loss in declared:
        model.zero_grad()
        losses[loss].backward(retain_graph=True)
        assert torch.isfinite(losses[loss]) and losses[loss] > 0
        first = next(model.student.backbone.parameters())
        assert first.grad.abs().sum() > 0


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
