"""Parts that keys of mmengine name, and what computes them, are looked at."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import MMSeparateDistributedDataParallel
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing
from mmpretrain.structures import DataSample
from tiny import CONFIGS, algorithm, build
from tiny_runs import feature_config
from torch import nn
from torch.nn import functional as F

from cakd_mm.engine.hooks import RunnerKeysHook

BACKBONE = 'architecture.backbone'


@pytest.fixture(scope='module')
def distillation(tmp_path_factory):
    cfg = Config.fromfile(feature_config(tmp_path_factory.mktemp('config')))
    cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    return algorithm(cfg)


def check(model, **keys):
    RunnerKeysHook().before_run(SimpleNamespace(model=model, cfg=keys))


@pytest.mark.parametrize(
    'key, value, words',
    [
        ('activation_checkpointing', ['backbone.stage1'], f"'{BACKBONE}.stage1'"),
        ('activation_checkpointing', BACKBONE + '.nope', 'no such part'),
        ('activation_checkpointing', 3, 'no names of parts'),
        ('activation_checkpointing', ['teacher.backbone'], 'without gradients'),
        ('efficient_conv_bn_eval', ['teacher.backbone.nope'], 'no such part'),
    ],
)
def test_what_is_refused_names_key_and_part(distillation, key, value, words):
    with pytest.raises((TypeError, ValueError), match=f'^`{key}`') as error:
        check(distillation, **{key: value})
    assert words in str(error.value), error.value


class Dropping(nn.Module):
    def forward(self, x):
        return F.dropout(x, training=self.training)


class Choosing(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    'kind, words', [(Dropping, 'in training than in scoring'), (Choosing, 'torch.fx')]
)
def test_parts_that_are_no_fixed_sequence_of_layers(kind, words):
    model = nn.Sequential(kind(), nn.Dropout())
    model[0].eval()
    with pytest.raises(ValueError, match=words):
        check(model, efficient_conv_bn_eval='0')
    assert [module.training for module in model] == [False, True]


def test_fused_parts_around_what_is_recorded(distillation):
    for path in ('stage2', 'stage2.0.conv1', 'stage2.0.bn1'):
        module = distillation.student.backbone.get_submodule(path)
        handle = module.register_forward_hook(lambda *_: None)
        with pytest.raises(ValueError, match=f'{BACKBONE}.{path} is recorded'):
            check(distillation, efficient_conv_bn_eval=[BACKBONE])
        handle.remove()
    check(distillation, efficient_conv_bn_eval=[BACKBONE])


def test_what_works_is_not_refused(distillation):
    parts = ['architecture', 'student.backbone.stage2', 'distiller.connectors']
    check(distillation, activation_checkpointing=parts)
    check(distillation, efficient_conv_bn_eval=[f'{BACKBONE}.stage1.0'])
    check(distillation, activation_checkpointing=None, efficient_conv_bn_eval=None)
    plain = build(Config.fromfile(CONFIGS / 'vanilla/resnet20_digits.py').model)
    check(plain, activation_checkpointing='backbone', efficient_conv_bn_eval='backbone')


def test_wrappers_that_take_a_distillation_apart(distillation):
    class Wrapper(MMSeparateDistributedDataParallel):
        def __init__(self, module):  # of one process
            nn.Module.__init__(self)
            self.module = module

    with pytest.raises(ValueError, match='`model_wrapper_cfg.type` = .Wrapper'):
        check(Wrapper(distillation))
    check(Wrapper(nn.Identity()))


def test_checkpointed_parts_train_as_without(tmp_path):
    """Also those that see images, what is recorded in them, and their statistics."""
    cfg = Config.fromfile(feature_config(tmp_path))
    cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    samples = [DataSample().set_gt_label(i) for i in range(4)]
    found = []
    for parts in ([], [BACKBONE], ['architecture', f'{BACKBONE}.stage2.0']):
        model = algorithm(cfg)
        turn_on_activation_checkpointing(model, parts)
        copied = copy.deepcopy(model)
        for net in (model, copied):
            losses = net(images, samples, mode='loss')
            sum(v for k, v in losses.items() if 'loss' in k).backward()
            found.append([p.grad for p in net.student.parameters()])
            found[-1] += net.student.buffers()
    assert sum(x.count_nonzero() for x in found[0]) > 1000
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))
