"""Layers that sync_bn replaces keep their hooks, and a teacher keeps its layers."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.model import (
    MMDistributedDataParallel,
    convert_sync_batchnorm,
    revert_sync_batchnorm,
)
from mmpretrain.structures import DataSample
from ranks import two_ranks
from tiny import CONFIGS, algorithm, digits_config
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cakd_mm.engine.launch.device import naming_sync_bn

CONVERSIONS = dict(
    mmengine=convert_sync_batchnorm,
    torch=nn.SyncBatchNorm.convert_sync_batchnorm,
    reverted=lambda model: revert_sync_batchnorm(convert_sync_batchnorm(model)),
)


def batch(size=16, seed=0):
    images = torch.randn(
        4, 3, size, size, generator=torch.Generator().manual_seed(seed)
    )
    return images, [DataSample().set_gt_label(i) for i in range(4)]


def model_of(name):
    """An algorithm of a shipped config with a random teacher."""
    cfg = Config.fromfile(CONFIGS / name)
    cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    return algorithm(cfg)


def norms(net):
    return [module for module in net.modules() if isinstance(module, _BatchNorm)]


def tapping_norms(cfg):
    """Tap layers of normalisation themselves, before and after them."""
    distiller = cfg.model.distiller
    for side in ('student_recorders', 'teacher_recorders'):
        distiller[side].update(
            before=dict(type='ModuleInputs', source='backbone.stage2.0.bn1'),
            after=dict(type='Tap', source='stage3_norm'),
        )
    distiller.distill_losses.update(
        {x: dict(type='L2Loss') for x in ('loss_b', 'loss_a')}
    )
    for loss, name, options in (
        ('loss_b', 'before', dict(data_idx=0)),
        ('loss_a', 'after', {}),
    ):
        distiller.loss_forward_mappings[loss] = {
            f'{letter}_feature': dict(
                recorder=name,
                from_student=letter == 's',
                **options,
                **({'connector': name} if letter == 's' else {}),
            )
            for letter in 'st'
        }
    distiller.connectors = dict(
        before=dict(type='MapConnector', in_channels=32, out_channels=32),
        after=dict(type='MapConnector', in_channels=64, out_channels=64),
    )
    return cfg


@pytest.mark.parametrize('conversion', CONVERSIONS)
@pytest.mark.parametrize(
    'name', [f'{x}/{x}_wrn40-2_wrn16-2_cifar100.py' for x in ('ofd', 'reviewkd')]
)
def test_losses_are_those_without_the_conversion(name, conversion):
    expected = model_of(name)
    model = copy.deepcopy(expected)
    teachers = norms(model.teacher)
    model = CONVERSIONS[conversion](model)
    students = norms(model.student)
    assert type(students[0]) is not nn.BatchNorm2d
    for _ in range(2):
        found, losses = (
            model(*batch(32), mode='loss'),
            expected(*batch(32), mode='loss'),
        )
        assert {k: v.tolist() for k, v in found.items()} == {
            k: v.tolist() for k, v in losses.items()
        }
        assert all(a is b for a, b in zip(norms(model.teacher), teachers, strict=True))
    assert all(a is b for a, b in zip(norms(model.student), students, strict=True))
    assert not any(layer.training for layer in norms(model.teacher))


def demo():
    cfg = digits_config('cakd/demo_digits.py', model__allow_random_teacher=True)
    cfg.model.teacher_ckpt = None
    return cfg


@pytest.mark.parametrize('conversion', CONVERSIONS)
def test_recorders_of_replaced_layers_go_on_recording(conversion):
    expected = algorithm(tapping_norms(demo()))
    model = CONVERSIONS[conversion](copy.deepcopy(expected))
    found, losses = model(*batch(), mode='loss'), expected(*batch(), mode='loss')
    for name in ('distill.loss_a', 'distill.loss_b', 'student.loss'):
        assert found[name] == losses[name] > 0, name


def test_other_hooks_follow_too_and_can_be_removed():
    model = algorithm(demo())
    calls = []
    layer = model.student.backbone.stage1[0].bn1
    handles = [
        layer.register_forward_pre_hook(lambda *_: calls.append('pre')),
        layer.register_forward_hook(
            lambda *_, **__: calls.append('post'), with_kwargs=True
        ),
        layer.register_full_backward_hook(lambda *_: calls.append('back')),
    ]
    convert_sync_batchnorm(model)
    new = model.student.backbone.stage1[0].bn1
    handles.append(new.register_forward_hook(lambda *_: calls.append('new')))
    model(*batch(), mode='loss')['distill.loss_cakd'].backward()
    assert sorted(calls) == ['back', 'new', 'post', 'pre']
    for handle in handles[:3]:
        handle.remove()
    calls.clear()
    model(*batch(), mode='loss')['distill.loss_cakd'].backward()
    assert calls == ['new']


def test_a_hook_of_a_converted_layer_follows_into_the_next_one():
    model = algorithm(demo())
    calls = []
    for _ in range(2):
        convert_sync_batchnorm(model)
        model(*batch(), mode='loss')
        if not calls:
            layer = model.student.backbone.stage1[0].bn1
            layer.register_full_backward_hook(lambda *_: calls.append('back'))
            calls.append('registered')
    model(*batch(), mode='loss')['distill.loss_cakd'].backward()
    assert calls == ['registered', 'back']


def test_a_teacher_that_was_moved_gets_its_own_layers_there():
    model = algorithm(demo())
    layers = norms(model.teacher)
    expected = [layer.running_var.double() for layer in layers]
    CONVERSIONS['torch'](model).double()
    images, samples = batch()
    model(images.double(), samples, mode='loss')
    assert all(a is b for a, b in zip(norms(model.teacher), layers, strict=True))
    for layer, variance in zip(layers, expected, strict=True):
        assert layer.weight.dtype == layer.running_var.dtype == torch.float64
        assert torch.equal(layer.running_var, variance)


def trained(model, rank):
    """Train two steps as a rank does; return losses and weights."""
    wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, weight_decay=0.01)
    for step in range(2):
        losses = wrapped(*batch(seed=2 * step + rank), mode='loss')
        optimizer.zero_grad()
        sum(v for k, v in losses.items() if 'loss' in k).backward()
        optimizer.step()
    return {k: v.item() for k, v in losses.items()}, model.state_dict()


def test_two_ranks(tmp_path):
    """PyTorch refuses such layers without a GPU: these normalise what a rank has."""
    names = [f'{x}/{x}_wrn40-2_wrn16-2_cifar100.py' for x in ('ofd', 'reviewkd')]

    def work(rank):
        refused = CONVERSIONS['torch'](algorithm(demo()))
        with (
            pytest.raises(ValueError, match=r'`sync_bn` = .torch.: .* GPUs alone'),
            naming_sync_bn(Config(dict(sync_bn='torch'))),
        ):
            MMDistributedDataParallel(refused)
        nn.SyncBatchNorm.forward = _BatchNorm.forward
        MMDistributedDataParallel._passing_sync_batchnorm_handle = lambda *_: None
        found = []
        for name in names:
            for convert in (lambda model: model, convert_sync_batchnorm):
                found.append(trained(convert(model_of(name)), rank))
        return found

    ranks = two_ranks(work, tmp_path)
    for found in ranks:
        for plain, converted in (found[:2], found[2:]):
            assert plain[0] == converted[0]
            assert plain[1].keys() == converted[1].keys()
            for name, value in plain[1].items():
                assert torch.equal(value, converted[1][name]), name
    (losses, weights), (others, other_weights) = (found[1] for found in ranks)
    assert losses['distill.loss_ofd'] != others['distill.loss_ofd'] > 0
    for name, value in weights.items():
        if 'running' not in name:
            assert torch.equal(value, other_weights[name]), name
