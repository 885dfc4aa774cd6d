"""Every config of the tree is loaded, built and run for one step."""

import ast
import copy
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from leaves import BASES, LEAVES, SHIPPED, bases, chains
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from tiny import CONFIGS

from cakd_mm.models.algorithms import frozen_teacher_distill, teacher
from cakd_mm.tasks import TASKS
from cakd_mm.utils.extract import plain_config

DISTILLING = [name for name in LEAVES if not name.startswith('vanilla/')]
VANILLA = [name for name in LEAVES if name not in DISTILLING]
# Size of the images and number of classes.
SETS = {
    'digits': (16, 10),
    'cifar10-16px': (16, 10),
    'cifar10-mini': (32, 10),
    'cifar100': (32, 100),
    'tinyimagenet': (32, 200),
    'in1k': (224, 1000),
}
# Type of the backbone, parameters without the classifier, and the channels that the
# classifier takes. The numbers of the nets of the tables and of torchvision's are
# published, with 100 or 1,000 classes.
NETS = {
    'r8': ('CIFARResNet', 77_392, 64),
    'r20': ('CIFARResNet', 278_324 - 6_500, 64),
    'r56': ('CIFARResNet', 861_620 - 6_500, 64),
    'r8x4': ('CIFARResNet', 1_233_540 - 25_700, 256),
    'r32x4': ('CIFARResNet', 7_433_860 - 25_700, 256),
    'wrn16-2': ('CIFARWideResNet', 703_284 - 12_900, 128),
    'wrn40-2': ('CIFARWideResNet', 2_255_156 - 12_900, 128),
    'shv1': ('CIFARShuffleNetV1', 949_258 - 96_100, 960),
    'shv2': ('CIFARShuffleNetV2', 1_355_528 - 102_500, 1024),
    'vit-tiny': ('VisionTransformer', 138_304, 64),
    'r18': ('ResNet', 11_689_512 - 513_000, 512),
    'r34': ('ResNet', 21_797_672 - 513_000, 512),
    'r50': ('ResNet', 25_557_032 - 2_049_000, 2048),
    'mbv1': ('MobileNetV1', 4_231_976 - 1_025_000, 1024),
    'mbv2': ('MobileNetV2', 3_504_872 - 1_281_000, 1280),
}
SHORT = {'shufflenetv': 'shv', 'mobilenetv': 'mbv', 'resnet': 'r'}


@pytest.fixture(autouse=True, scope='module')
def _nets_made_once():
    """Make no net twice: 17 pairs have 335 configs, which take the same nets in turn.

    What a config hangs on a net is taken off for the next one. What our checks see of
    small images in a dry run is found out once, too.
    """
    made: dict[str, BaseModel] = {}
    genuine = teacher.build_net

    def build_net(net: dict, key: str) -> BaseModel:
        name = f'{key} {net}'
        if name not in made:
            made[name] = genuine(net, key)
            made[name].init_weights()
        for module in made[name].train().requires_grad_(True).modules():
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
        return made[name]

    with pytest.MonkeyPatch.context() as patch:
        for place in (teacher, frozen_teacher_distill):
            patch.setattr(place, 'build_net', build_net)
        yield


def build(cfg: dict):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(copy.deepcopy(cfg))


def flat(value, path='') -> dict:
    """Return the values of nested dicts by their dotted keys."""
    if not isinstance(value, dict) or not value:
        return {path: value}
    parts = [flat(x, f'{path}.{key}'.lstrip('.')) for key, x in value.items()]
    return {key: x for part in parts for key, x in part.items()}


def names_of(leaf: str) -> tuple[list[str], str]:
    """Return the nets and the data of the task that a leaf inherits.

    A vanilla leaf has one net, of its own name; others have teacher and student.
    """
    pair, _, data = bases(CONFIGS / leaf)[0].stem.removesuffix('_30e').rpartition('_')
    if not pair:
        name = Path(leaf).stem.split('_')[0]
        for long, short in SHORT.items():
            name = name.replace(long, short)
        return [name], data
    return pair.split('_'), data


def check_net(net, name: str, data: str) -> None:
    kind, backbone, width = NETS[name]
    classes = SETS[data][1]
    assert type(net.backbone).__name__ == kind
    assert count(net.backbone) == backbone
    # A neck that goes into the head is no part of the student that is extracted.
    folded = count(net.neck) if hasattr(net.neck, 'folded_into') else 0
    assert count(net) - folded == backbone + (width + 1) * classes
    assert net.head.num_classes == classes


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


def batch(shape, classes, n=2):
    samples = [DataSample().set_gt_label(i % classes) for i in range(n)]
    images = torch.randint(0, 256, (n, *shape), dtype=torch.uint8)
    return {'inputs': images, 'data_samples': samples}


def test_every_net_of_a_table_is_also_trained_alone():
    found = {(*names_of(name)[0], names_of(name)[1]) for name in VANILLA}
    for name in DISTILLING:
        nets, data = names_of(name)
        assert {(net, data) for net in nets} <= found, name


def test_every_teacher_is_made_by_a_vanilla_run():
    """What a config says to run leaves the checkpoint that it looks for."""
    for task in (BASES / 'tasks').glob('*_*.py'):
        cfg = Config.fromfile(task)
        path = cfg.model.teacher_ckpt
        if path.startswith('https://'):  # mmdet and mmseg publish theirs
            continue
        command = cfg.model.teacher_from
        if 'from_torchvision' in command:
            assert path in command
            continue
        teacher = Path(command.rsplit(' ', 1)[-1])
        made = Config.fromfile(CONFIGS.parent / teacher)
        epoch = made.train_cfg.max_epochs
        assert path == f'work_dirs/{teacher.stem}/epoch_{epoch}.pth', task.name
        if 'cfg_path' in cfg.model.teacher:  # the net of that very file
            assert cfg.model.teacher.cfg_path == f'cakd_mm::vanilla/{teacher.name}'
            continue
        own = {k: v for k, v in cfg.model.teacher.items() if v is not None}
        assert own.pop('_scope_') == 'mmpretrain'
        assert own == {k: v for k, v in made.model.items() if v is not None}, task.name


def check_leaf(name: str, cfg: Config) -> None:
    """It is a task, a method, its views and its numbers, and four files deep at most.

    The fourth is for a method that changes another. mmpretrain's own files are not
    counted.
    """
    leaf = CONFIGS / name
    ways = chains(leaf)
    assert max(len(way) for way in ways) <= 4
    folders = [base.parent.name for base in bases(leaf)]
    views = [folder for folder in folders if folder == 'views']
    assert folders == ['tasks', *(['methods', *views] if name in DISTILLING else [])]
    seen = cfg.train_dataloader.dataset.pipeline[-2].type
    assert (seen == 'MultiView') is bool(views)
    if names_of(name)[1] != 'digits':
        assert not [file for way in ways for file in way if 'digits' in file.name]
    lines = [x for x in leaf.read_text().splitlines() if x and not x.startswith('#')]
    assert len(lines) <= 11 or name == 'vanilla/vit-tiny_digits.py'
    assert [Path(other).name for other in LEAVES].count(leaf.name) == 1
    assert cfg.custom_imports.imports == ['cakd_mm']
    assert cfg.default_scope == 'mmpretrain'
    assert {'finite', 'labels', 'extract'} <= cfg.default_hooks.keys()
    assert cfg.train_cfg.type == 'ResumableTrainLoop'
    last = cfg.param_scheduler.get('milestones', [0])[-1]
    assert last < cfg.train_cfg.max_epochs


def test_every_task_is_used_and_joins_what_its_name_says():
    tasks = {*(BASES / 'tasks').glob('*.py')}
    first = {bases(CONFIGS / name)[0] for name in SHIPPED}
    # A wider net may inherit the run of the narrower one.
    assert tasks == {base for base in first if base.parent.name != 'vanilla'}
    for task in tasks:
        folders = [base.parent.name for base in bases(task)]
        pair = ['pairs'] if hasattr(Config.fromfile(task), 'model') else []
        assert folders == ['_base_', 'datasets', 'schedules', *pair], task.name


PART = {'per_class', 'num_workers', 'persistent_workers', 'pin_memory'}
HALF_SIZE = {'size', 'pipeline', 'train_pipeline', 'test_pipeline', 'mean', 'std'}


@pytest.mark.parametrize(
    ('base', 'other', 'differs'),
    [
        ('schedules/cakd_240e_light', 'cakd_240e', {'lr'}),
        (
            'schedules/small_30e',
            'cakd_240e',
            {'milestones', 'max_epochs', 'base_batch_size'},
        ),
        ('datasets/cifar10_mini', 'cifar10_images', PART | {'batch_size'}),
        ('datasets/cifar10_16px', 'cifar10_images', PART | HALF_SIZE),
        (
            'pairs/r20_r8_cifar10-mini',
            'r20_r8_digits',
            {'teacher_ckpt', 'teacher_from'},
        ),
    ],
)
def test_bases_that_resemble_each_other_differ_only_in(base, other, differs):
    """A base of a task inherits nothing, so that two may have to say the same."""
    file = BASES / f'{base}.py'
    files = file, file.with_name(f'{other}.py')
    one, two = (flat(Config.fromfile(x).to_dict()) for x in files)
    keys = {key for key in one.keys() | two.keys() if one.get(key) != two.get(key)}
    assert {key.rpartition('.')[2] for key in keys} == differs


def test_every_method_begins_with_the_logits():
    def read(name):
        file = BASES / 'methods' / f'{name}.py'
        return flat(Config.fromfile(file).distiller.to_dict())

    for method in (BASES / 'methods').glob('*.py'):
        assert read('logits').items() <= read(method.stem).items(), method.name
    assert read('cakd_logit').items() <= read('cakd_logit_feature').items()


@pytest.mark.parametrize('name', VANILLA)
def test_a_vanilla_config_does_a_step(name):
    """One step of its own optimizer, on images of its own size and classes."""
    cfg = Config.fromfile(CONFIGS / name)
    check_leaf(name, cfg)
    model = build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    [net], data = names_of(name)
    check_net(model, net, data)
    model.init_weights()
    model.train()
    shape, classes = TASKS[0].image_shape(cfg), model.head.num_classes
    assert (shape[1], classes) == SETS[data]
    assert cfg.data_preprocessor.num_classes == classes
    before = {key: value.clone() for key, value in model.named_parameters()}
    wrapper = ConfigDict({'type': 'OptimWrapper', **cfg.optim_wrapper})
    wrapper = build_optim_wrapper(model, wrapper)
    logs = model.train_step(batch(shape, classes), wrapper)
    assert 0 < logs['loss'] < 3 * math.log(classes)
    after = dict(model.named_parameters())
    assert all(torch.isfinite(value).all() for value in after.values())
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    # mmpretrain's nets begin with some layers at zero, which hold others back.
    ours = type(model.backbone).__module__.startswith('cakd_mm')
    assert moved == set(after) if ours else any(key.startswith('head') for key in moved)


def kind_of(leaf: str) -> tuple:
    """Return what leaves share that differ in numbers and in the images alone."""
    tree = ast.parse((CONFIGS / leaf).read_text())
    _, *others = bases(CONFIGS / leaf)
    lines = [ast.unparse(node) for node in tree.body]
    text = '; '.join(line for line in lines if not line.startswith('_base_ = '))
    return names_of(leaf)[0], others, re.sub(r'-?\d[\d.e-]*', '0', text)


# Of the leaves of a kind, the first does a step.
KINDS = {str(kind_of(name)): name for name in reversed(DISTILLING)}


@pytest.mark.parametrize('name', sorted(set(DISTILLING) - set(KINDS.values())))
def test_a_distillation_of_other_numbers_is_built(name):
    cfg = Config.fromfile(CONFIGS / name)
    check_leaf(name, cfg)
    model = dict(cfg.model, teacher_ckpt=None, allow_random_teacher=True)
    losses = build(model).distiller.distill_losses
    assert losses.keys() == cfg.model.distiller.distill_losses.keys()


@pytest.mark.parametrize('name', sorted(KINDS.values()))
def test_a_distillation_does_a_step(name):
    """One step of the nets of its name, in which each loss moves the student."""
    cfg = Config.fromfile(CONFIGS / name)
    check_leaf(name, cfg)
    losses = cfg.model.distiller.distill_losses
    for loss in losses.values():
        if loss.type == 'CRDBankLoss':
            loss.negatives = 64  # of 200 images: 16,384 would only cost time
    # A file of the teacher for each config would only cost time, too.
    cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    model = build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)).train()
    nets, data = names_of(name)
    for net, built in zip(nets, (model.teacher, model.student), strict=True):
        check_net(built, net, data)
    model.init_weights()
    shape = TASKS[0].image_shape(plain_config(cfg))
    size = min(shape[1], 64)  # 224 pixels would only cost time
    classes = model.student.head.num_classes
    data = model.data_preprocessor(batch((shape[0], size, size), classes), True)
    for loss in model.distiller.distill_losses.values():  # as the hooks do
        if hasattr(loss, 'set_epoch'):
            loss.set_epoch(0)
        if hasattr(loss, 'set_dataset'):
            loss.set_dataset(np.arange(200) % classes, 0, 2)
            loss.indices = torch.arange(2)
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
