"""DeiT's distillation token is taught apart from its class token."""

import copy
import warnings

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from tiny import CONFIGS, build

from cakd_mm.models.taps import points_of

N, C, WIDTH = 4, 10, 16
STUDENT = dict(
    type='ImageClassifier',
    backbone=dict(
        type='DistilledVisionTransformer',
        arch=dict(embed_dims=WIDTH, num_layers=2, num_heads=2, feedforward_channels=32),
        img_size=16,
        patch_size=4,
    ),
    neck=None,
    head=dict(type='DeiTClsHead', num_classes=C, in_channels=WIDTH),
)


def student(**head) -> torch.nn.Module:
    """Build a student whose classifiers are not the zeros they begin with."""
    torch.manual_seed(0)
    net = build(dict(STUDENT, head=dict(STUDENT['head'], **head)))
    net.init_weights()
    for parameter in net.head.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return net


def algorithm(net: torch.nn.Module, **recorder) -> torch.nn.Module:
    """Build the base's distillation; ``recorder`` replaces its tap of the token."""
    method = Config.fromfile(CONFIGS / '_base_/methods/deit.py').distiller
    method.student_recorders.token.update(recorder)
    pair = Config.fromfile(CONFIGS / '_base_/pairs/r20_r8_digits.py').model
    model = dict(
        pair,
        architecture=net,
        distiller=method,
        teacher_ckpt=None,
        allow_random_teacher=True,
        data_preprocessor=dict(num_classes=C),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(model).train()


def batch() -> tuple:
    images = torch.randn(N, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return images, [DataSample().set_gt_label(i) for i in range(N)]


def gradients(loss, net) -> set[str]:
    """Return which of the parts that matter here a loss has a gradient for."""
    net.zero_grad()
    loss.backward(retain_graph=True)
    parts = {
        'class head': net.head.layers.head.weight,
        'token head': net.head.layers.head_dist.weight,
        'token': net.backbone.dist_token,
        'class token': net.backbone.cls_token,
    }
    grads = {name: part.grad for name, part in parts.items()}
    return {k for k, grad in grads.items() if grad is not None and grad.any()}


@pytest.mark.parametrize('hidden', [None, 12])
def test_teacher_and_labels_teach_apart(hidden):
    net = student(hidden_dim=hidden)
    plain = copy.deepcopy(net).eval()
    model = algorithm(net)
    images, samples = batch()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        warnings.filterwarnings('ignore', 'MMPretrain cannot train')
        losses = model(images, samples, mode='loss')
    assert [str(x.message) for x in told if 'DeiT' in str(x.message)] == []
    # Attention mixes the tokens of all layers, but not the two classifiers.
    assert gradients(losses['student.loss'], net) >= {'class head', 'class token'}
    assert 'token head' not in gradients(losses['student.loss'], net)
    assert gradients(losses['distill.loss_deit'], net) >= {'token head', 'token'}
    assert 'class head' not in gradients(losses['distill.loss_deit'], net)

    # By hand: each classifier from its token.
    class_token, token = net.head.pre_logits(net.extract_feat(images))
    scores = net.head.layers.head(class_token), net.head.layers.head_dist(token)
    entropy = torch.nn.functional.cross_entropy
    torch.testing.assert_close(
        losses['student.loss'], entropy(scores[0], torch.arange(N))
    )
    decided = model.teacher(images, mode='tensor').argmax(1)
    torch.testing.assert_close(
        losses['distill.loss_deit'], 0.5 * entropy(scores[1], decided)
    )
    # Scored by the mean, as mmpretrain does.
    model.eval()
    mean = plain(images, mode='tensor')
    assert torch.equal(net(images, mode='tensor'), mean)
    torch.testing.assert_close(mean, (scores[0] + scores[1]) / 2)


@pytest.mark.parametrize('hidden', [None, 12])
def test_the_taps_have_their_widths(hidden):
    net = student(hidden_dim=hidden)
    width = hidden or WIDTH
    expected = dict(
        class_logits=C, token_logits=C, class_token=width, distillation_token=width
    )
    points = {name: points_of(net)[name] for name in expected}
    assert {name: point.channels for name, point in points.items()} == expected
    for name, point in points.items():
        model = algorithm(copy.deepcopy(net), source=name)
        images, samples = batch()
        tokens = dict(class_token=0, class_logits=0)
        feats = net.extract_feat(images)
        expected = net.head.pre_logits(feats)[tokens.get(name, 1)]
        if name.endswith('logits'):
            expected = net.get_submodule(point.module)(expected)
            model(images, samples, mode='loss')
        else:
            with model.distiller.student_recorders:
                model.student(images, samples, mode='loss')
        torch.testing.assert_close(model.distiller.get_record('token', True), expected)


def test_two_taps_of_a_token_prepare_once():
    net = student()
    model = algorithm(net)
    hooks = len(net.head._forward_hooks)
    model.distiller.student_recorders.get_recorder('token').prepare_from_model(net)
    assert len(net.head._forward_hooks) == hooks


def test_a_class_tap_alone_leaves_the_head_as_it_is():
    net = student()
    model = algorithm(net, source='class_logits')
    images, samples = batch()
    losses = model(images, samples, mode='loss')
    assert 'token head' in gradients(losses['student.loss'], net)
