"""Taps by name: what is recorded is what the net computes there."""

import copy

import pytest
import torch
from known_nets import NETS
from mmrazor.models.task_modules import RecorderManager
from tiny import build
from torch import nn

from cakd_mm.models.taps import points_of

STAGES = [f'stage{i}{end}' for i in (1, 2, 3, 4) for end in ('', '_pre')]


def record(model, sources, images, kind='Tap'):
    manager = RecorderManager({s: dict(type=kind, source=s) for s in sources})
    manager.initialize(model)
    with manager:
        logits = model(images, mode='tensor')
    return {s: manager.get_recorder(s).get_record_data() for s in sources}, logits


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('net', sorted(NETS))
def test_a_stage_is_its_pre_activation_activated(net, training):
    model = NETS[net]().train(training)
    images = torch.randn(2, 3, 64, 64)
    plain = copy.deepcopy(model)(images, mode='tensor')
    others = 'classifier', 'loss_inputs'
    sources = [
        name
        for name in points_of(model)
        if not name.endswith('_norm') and name not in others
    ]
    own = [name for name in STAGES if name in sources] + ['pooled', 'logits']
    assert sorted(sources) == sorted(
        own + [f'stage{i}_sum' for i in (1, 2, 3) if net.startswith('wrn')]
    )
    seen, logits = record(model, sources, images)
    assert torch.equal(logits, plain)  # being watched changes nothing
    points = points_of(model)
    for name in sources:
        assert seen[name].shape[1] == points[name].channels, name
    for index in (1, 2, 3, 4):
        if f'stage{index}' not in seen:
            assert index == 4
            continue
        pre, post = seen[f'stage{index}_pre'], seen[f'stage{index}']
        if net == 'mobilenetv2':  # its blocks end without an activation
            assert torch.equal(pre, post)
        else:
            assert (pre < 0).float().mean() > 0.02
            sorted_pre, sorted_post = pre.relu().flatten(2), post.flatten(2)
            if net == 'shufflenetv2':  # another order of the channels
                sorted_pre, sorted_post = sorted_pre.sort(1)[0], sorted_post.sort(1)[0]
            assert torch.equal(sorted_pre, sorted_post)
    assert torch.equal(model.head.fc(seen['pooled']), logits)
    # Half the size from stage to stage.
    sizes = [seen[f'stage{i}'].shape[2] for i in range(1, 5) if f'stage{i}' in seen]
    assert all(a == 2 * b for a, b in zip(sizes, sizes[1:], strict=False))


@pytest.mark.parametrize('net', ['resnet8', 'wrn16-1', 'shufflenetv1', 'resnet50'])
def test_the_norm_is_the_layer_that_makes_the_pre_activation(net):
    """Its bias moves the tap by as much in every position."""
    model = NETS[net]().eval()
    images = torch.randn(1, 3, 64, 64)
    before, _ = record(copy.deepcopy(model), ['stage2_pre'], images)
    moved = copy.deepcopy(model)
    points = points_of(moved)
    # No deeper than the block that ends the stage: nothing before it changes.
    moved.get_submodule(points['stage2_norm'].module).bias.data += 0.5
    after, _ = record(moved, ['stage2_pre'], images)
    change = after['stage2_pre'] - before['stage2_pre']
    count = moved.get_submodule(points['stage2_norm'].module).bias.numel()
    torch.testing.assert_close(
        change[:, :count], torch.full_like(change[:, :count], 0.5), atol=1e-4, rtol=0
    )


def test_a_gradient_goes_through_a_tap_before_an_activation_in_place():
    model, images = NETS['resnet18'](), torch.randn(2, 3, 64, 64)
    taps, _ = record(model, ['stage2_pre'], images)
    taps['stage2_pre'].square().sum().backward()
    assert model.backbone.conv1.weight.grad.abs().sum() > 0
    assert model.backbone.layer3[0].conv1.weight.grad is None
    taps, _ = record(model, ['stage3_norm.weight'], images, 'TapParameter')
    assert taps['stage3_norm.weight'] is model.backbone.layer3[1].bn2.weight


def test_a_feature_that_is_overwritten_is_an_error():
    model = NETS['resnet8']().train()
    model.backbone.stage1[0].register_forward_hook(lambda *args: args[-1].mul_(2))
    model.backbone.stage2[0].relu.inplace = True

    class Spoils(nn.Module):
        def forward(self, x):
            return x.mul_(0.5)

    model.backbone.stage3.insert(0, Spoils())
    with torch.no_grad(), pytest.raises(ValueError, match="'stage2': .*overwritten"):
        record(model, ['stage2'], torch.randn(1, 3, 32, 32))


def test_a_feature_that_is_one_of_several_outputs():
    pytest.importorskip('transformers')
    small = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    config = dict(model_type='dinov2', image_size=28, patch_size=14, **small)
    net = build(dict(type='HuggingFaceBackbone', config=config)).eval()
    seen, pooled = record(net, ['pooled'], torch.randn(2, 3, 28, 28))
    assert torch.equal(seen['pooled'], pooled)
