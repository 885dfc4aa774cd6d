import numpy as np
import pytest
import torch
from reference_nets import entry
from test_cifar_resnet import TAPS, randomised, record
from test_wide_resnet import macs
from tiny import build
from torch import nn
from torch.nn.functional import avg_pool2d

from cakd_mm.models.backbones import CIFARShuffleNetV1

# Logits of the first four classes for two images, from a transcription of the
# benchmarks' net in float64, filled as their reference numbers are (seed 0).
PINNED = [
    [1.0997675055, 1.0980749279, -0.3601110112, 0.5099350603],
    [1.134105518, 1.166630589, -0.4070333449, 0.5259973675],
]


def classifier(classes=100):
    return build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='CIFARShuffleNetV1'),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=classes, in_channels=960),
        )
    )


@pytest.mark.parametrize(('classes', 'count'), [(100, 949_258), (200, 1_045_358)])
def test_parameter_count(classes, count):
    assert sum(p.numel() for p in classifier(classes).parameters()) == count


def test_multiplications():
    assert macs(classifier()) == 38_691_456


def test_state_dict_has_no_entries_for_taps():
    keys = classifier().state_dict().keys()
    assert len(keys) == 296
    assert {key.split('.')[1] for key in keys if key.startswith('backbone.')} == {
        *('conv1', 'bn1', 'stage1', 'stage2', 'stage3')
    }


@pytest.mark.parametrize('size', [32, 64])
def test_the_stages_halve_the_size(size):
    net = CIFARShuffleNetV1(out_indices=(0, 1, 2)).eval()
    outs = net(torch.randn(2, 3, size, size))
    assert [tuple(out.shape) for out in outs] == [
        (2, width, size >> i, size >> i)
        for i, width in enumerate((240, 480, 960), start=1)
    ]


@pytest.mark.parametrize('size', [32, 64])
def test_a_row_of_logits_for_each_image_and_a_gradient_for_each_parameter(size):
    model = classifier(classes=7)
    logits = model(torch.randn(2, 3, size, size), mode='tensor')
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize('out_indices', [(0,), (1,), (2,), (0, 2), (2, 0)])
def test_out_indices_select_maps_in_order_of_depth(out_indices):
    net = randomised(CIFARShuffleNetV1())
    images = torch.randn(2, 3, 16, 16)
    seen, _ = record(net, images)
    net.out_indices = out_indices
    outs = net(images)
    for index, out in zip(sorted(out_indices), outs, strict=True):
        assert torch.equal(out, seen[f'stage{index + 1}'][0])


@pytest.mark.parametrize('training', [False, True])
def test_taps_hold_the_joined_branches_before_and_after_the_last_relu(training):
    net = randomised(CIFARShuffleNetV1()).train(training)
    assert {*TAPS} <= dict(net.named_modules()).keys()  # as recorders find them
    seen, outs = record(net, torch.randn(4, 3, 16, 16))
    for index in (1, 2, 3):
        (post,), (pre,) = seen[f'stage{index}'], seen[f'stage{index}_pre']
        # Were the last ReLU in place, nothing negative would be left.
        assert (pre < 0).float().mean() > 0.05
        assert torch.equal(pre.relu(), post)
    assert torch.equal(outs[0], seen['stage3'][0])


def branch(unit, x, groups):
    """The bottleneck of ``unit``, its shuffle written as a permutation."""
    x = unit.bn1(unit.conv1(x)).relu()
    order = torch.arange(x.shape[1]).view(groups, -1).T.flatten()
    x = unit.bn2(unit.conv2(x[:, order])).relu()
    return unit.bn3(unit.conv3(x))


def test_the_units_of_stride_two_and_one():
    net = randomised(CIFARShuffleNetV1())
    x = torch.randn(2, 24, 8, 8)
    first = net.stage1[0](x)
    want = torch.cat((branch(net.stage1[0], x, 1), avg_pool2d(x, 3, 2, 1)), dim=1)
    assert torch.equal(first, want.relu())
    second = net.stage1[1](first)
    assert torch.equal(second, (branch(net.stage1[1], first, 3) + first).relu())
    down = net.stage2[0](first)
    pooled = avg_pool2d(first, 3, 2, 1)
    want = torch.cat((branch(net.stage2[0], first, 3), pooled), dim=1)
    assert torch.equal(down, want.relu())


def test_the_reference_net():
    model = classifier().eval()
    for key, value in model.state_dict().items():
        theirs = key.replace('backbone.', '').replace('stage', 'layer')
        theirs = theirs.replace('head.fc', 'linear')
        data = entry(theirs, tuple(value.shape), seed=0, gain=1.0)
        value.copy_(torch.from_numpy(data.astype(np.float32)))
    images = np.random.RandomState(0).randn(2, 3, 32, 32).astype(np.float32)
    with torch.no_grad():
        logits = model(torch.from_numpy(images), mode='tensor')
    assert (logits[:, :4] - torch.tensor(PINNED)).abs().max() < 1e-5 * 2.486


def test_gradient_reaches_the_stem_through_a_pre_tap():
    net = randomised(CIFARShuffleNetV1())
    seen, _ = record(net, torch.randn(2, 3, 16, 16))
    seen['stage2_pre'][0].square().sum().backward()
    assert net.conv1.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in net.stage3.parameters())


def test_initialisation_is_that_of_torch():
    torch.manual_seed(0)
    net = CIFARShuffleNetV1()
    net.init_weights()
    for conv in (net.stage3[1].conv1, net.stage3[1].conv2, net.stage3[1].conv3):
        bound = conv.weight[0].numel() ** -0.5
        assert bound * 0.95 < conv.weight.abs().max() <= bound
        assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert torch.equal(net.stage3[1].bn3.weight, torch.ones(960))


def test_conv_norm_and_channels_come_from_the_config():
    net = CIFARShuffleNetV1(in_channels=1, norm_cfg=dict(type='GN', num_groups=2))
    assert not [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert net(torch.randn(1, 1, 16, 16))[0].shape == (1, 960, 2, 2)


@pytest.mark.parametrize('out_indices', [(3,), ()])
def test_bad_arguments_are_named(out_indices):
    with pytest.raises(ValueError, match='`backbone.out_indices` = .*stages 0 to 2'):
        CIFARShuffleNetV1(out_indices=out_indices)
