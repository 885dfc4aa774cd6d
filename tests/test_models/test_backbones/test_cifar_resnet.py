import pytest
import torch
from tiny import build
from torch import nn

from cakd_mm.models.backbones import CIFARResNet

WIDE = (32, 64, 128, 256)
TAPS = [f'stage{i}{end}' for i in (1, 2, 3) for end in ('', '_pre')]


def classifier(depth, widths=(16, 16, 32, 64), classes=100):
    return build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='CIFARResNet', depth=depth, widths=widths),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(
                type='LinearClsHead', num_classes=classes, in_channels=widths[-1]
            ),
        )
    )


def record(net, images):
    """Run ``net`` and return what came out of every tap, and the result."""
    seen = {name: [] for name in TAPS}
    hooks = [
        net.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: seen[name].append(output)
        )
        for name in TAPS
    ]
    result = net(images)
    for hook in hooks:
        hook.remove()
    return seen, result


def randomised(net, seed=0):
    """Give every BatchNorm statistics of its own, as after training."""
    torch.manual_seed(seed)
    net.init_weights()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, 0.0, 0.3)
    return net.eval()


@pytest.mark.parametrize(
    ('depth', 'widths', 'classes', 'count'),
    [
        (20, (16, 16, 32, 64), 100, 278324),
        (20, (16, 16, 32, 64), 200, 284824),
        (56, (16, 16, 32, 64), 100, 861620),
        (8, WIDE, 100, 1233540),
        (32, WIDE, 100, 7433860),
        (32, WIDE, 200, 7459560),
        # One more block in each stage: two 3x3 convolutions and two norms there.
        *(
            (depth, (16, 16, 32, 64), 100, 278324 + ((depth - 2) // 6 - 3) * 97216)
            for depth in (8, 14, 32, 44, 110)
        ),
    ],
)
def test_parameter_count(depth, widths, classes, count):
    model = classifier(depth, widths, classes)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(('depth', 'count'), [(20, 128), (56, 344)])
def test_state_dict_has_no_entries_for_taps(depth, count):
    keys = classifier(depth).state_dict().keys()
    assert len(keys) == count
    assert not [key for key in keys if 'pre' in key]
    assert {key.split('.')[1] for key in keys if key.startswith('backbone.')} == {
        *('conv1', 'bn1', 'stage1', 'stage2', 'stage3')
    }


@pytest.mark.parametrize('size', [16, 32, 64])
@pytest.mark.parametrize('widths', [(16, 16, 32, 64), (8, 12, 20, 28)])
def test_stages_halve_the_size(size, widths):
    net = CIFARResNet(depth=8, widths=widths, out_indices=(0, 1, 2)).eval()
    outs = net(torch.randn(2, 3, size, size))
    assert [tuple(out.shape) for out in outs] == [
        (2, width, size >> i, size >> i) for i, width in enumerate(widths[1:])
    ]


def test_the_width_alone_asks_for_a_projection_in_stage_one():
    assert CIFARResNet(depth=8).stage1[0].downsample is None
    assert CIFARResNet(depth=8, widths=WIDE).stage1[0].downsample is not None


@pytest.mark.parametrize('out_indices', [(0,), (1,), (2,), (0, 2), (2, 0)])
def test_out_indices_select_maps_in_order_of_depth(out_indices):
    net = CIFARResNet(depth=8)
    images = torch.randn(2, 3, 16, 16)
    seen, _ = record(randomised(net), images)
    net.out_indices = out_indices
    outs = net(images)
    assert len(outs) == len(out_indices)
    for index, out in zip(sorted(out_indices), outs, strict=True):
        assert torch.equal(out, seen[f'stage{index + 1}'][0])


def test_default_returns_the_last_stage_alone():
    net = randomised(CIFARResNet(depth=14))
    seen, outs = record(net, torch.randn(2, 3, 16, 16))
    assert len(outs) == 1
    assert torch.equal(outs[0], seen['stage3'][0])


@pytest.mark.parametrize('depth', [8, 20])
@pytest.mark.parametrize('training', [False, True])
def test_taps_hold_the_sum_before_and_after_the_last_relu(depth, training):
    net = randomised(CIFARResNet(depth=depth)).train(training)
    seen, _ = record(net, torch.randn(4, 3, 16, 16))
    for index in (1, 2, 3):
        (post,), (pre,) = seen[f'stage{index}'], seen[f'stage{index}_pre']
        # Were the last ReLU in place, nothing negative would be left.
        assert (pre < 0).float().mean() > 0.05
        assert torch.equal(pre.relu(), post)


def test_the_pre_tap_is_that_sum():
    net = randomised(CIFARResNet(depth=14))
    images = torch.randn(2, 3, 16, 16)
    seen, _ = record(net, images)
    first, last = net.stage2
    x = first(seen['stage1'][0])
    total = last.bn2(last.conv2(last.bn1(last.conv1(x)).relu())) + x
    assert torch.equal(seen['stage2_pre'][0], total)


def test_gradient_reaches_the_stem_through_a_pre_tap():
    net = randomised(CIFARResNet(depth=8))
    seen, _ = record(net, torch.randn(2, 3, 16, 16))
    seen['stage2_pre'][0].square().sum().backward()
    assert net.conv1.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in net.stage3.parameters())


def test_initialisation_is_kaiming_fan_out_and_norms_one_and_zero():
    torch.manual_seed(0)
    net = CIFARResNet(depth=20)
    net.init_weights()
    weight = net.stage3[0].conv1.weight  # of 32 channels makes 64
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert torch.equal(net.stage3[1].bn2.weight, torch.ones(64))
    assert torch.equal(net.stage3[1].bn2.bias, torch.zeros(64))


def test_conv_norm_and_channels_come_from_the_config():
    net = CIFARResNet(
        depth=8, in_channels=1, norm_cfg=dict(type='GN', num_groups=4), widths=(8,) * 4
    )
    assert not [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert net(torch.randn(1, 1, 16, 16))[0].shape == (1, 8, 4, 4)


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(depth=2), r'`backbone.depth` = 2.*6 n \+ 2.*Use 8'),
        (dict(depth=18), r'`backbone.depth` = 18'),
        (dict(depth=8, widths=(16, 32, 64)), '`backbone.widths`.*Four numbers'),
        (dict(depth=8, out_indices=(3,)), r'`backbone.out_indices` = \(3,\)'),
        (dict(depth=8, out_indices=()), r'`backbone.out_indices` = \(\)'),
    ],
)
def test_bad_arguments_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        CIFARResNet(**options)
