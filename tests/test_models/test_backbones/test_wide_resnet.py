import pytest
import torch
from test_cifar_resnet import randomised
from tiny import build
from torch import nn
from torch.testing import assert_close

from cakd_mm.models.backbones import CIFARWideResNet

TAPS = [f'stage{i}{end}' for i in (1, 2, 3) for end in ('', '_pre', '_sum')]


def classifier(depth, classes=100, widen_factor=2):
    return build(
        dict(
            type='ImageClassifier',
            backbone=dict(
                type='CIFARWideResNet', depth=depth, widen_factor=widen_factor
            ),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(
                type='LinearClsHead',
                num_classes=classes,
                in_channels=64 * widen_factor,
            ),
        )
    )


def record(net, images):
    """Run ``net`` and return what came out of every tap, and the result."""
    seen = {name: [] for name in TAPS}
    modules = dict(net.named_modules())  # as mmrazor's recorders find them
    hooks = [
        modules[name].register_forward_hook(
            lambda _, __, output, name=name: seen[name].append(output)
        )
        for name in TAPS
    ]
    result = net(images)
    for hook in hooks:
        hook.remove()
    return seen, result


def macs(model, size=32):
    """Multiplications of the convolutions and of the linear layer for an image."""
    counts = []

    def count(module, _, output):
        counts.append(output[0].numel() * module.weight[0].numel())

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model.eval()(torch.zeros(1, 3, size, size), mode='tensor')
    return sum(counts)


@pytest.mark.parametrize(
    ('depth', 'widen_factor', 'classes', 'count'),
    [
        (16, 2, 100, 703_284),
        (16, 2, 200, 716_184),
        (40, 2, 100, 2_255_156),
        (40, 2, 200, 2_268_056),
        # One block less in each stage: two 3x3 convolutions and two norms there.
        (10, 2, 100, 703_284 - 18 * (32**2 + 64**2 + 128**2) - 4 * (32 + 64 + 128)),
        # The 16 channels of the stem need no projection to 16.
        (
            *(10, 1, 100),
            (3 + 16 + 16) * 144 + 4 * 16
            + 16 * 32 * 10 + 32 * 32 * 9 + 2 * (16 + 32)
            + 32 * 64 * 10 + 64 * 64 * 9 + 2 * (32 + 64)
            + 2 * 64 + 65 * 100,
        ),
    ],
)  # fmt: skip
def test_parameter_count(depth, widen_factor, classes, count):
    model = classifier(depth, classes, widen_factor)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(('depth', 'count'), [(16, 101_118_464), (40, 327_610_880)])
def test_multiplications(depth, count):
    assert macs(classifier(depth)) == count


@pytest.mark.parametrize(('depth', 'count'), [(16, 83), (40, 227)])
def test_state_dict_has_the_entries_of_the_reference(depth, count):
    assert len(classifier(depth).state_dict()) == count


@pytest.mark.parametrize('size', [16, 32, 64])
@pytest.mark.parametrize('widen_factor', [1, 2])
def test_stages_halve_the_size(size, widen_factor):
    net = CIFARWideResNet(10, widen_factor, out_indices=(0, 1, 2)).eval()
    outs = net(torch.randn(2, 3, size, size))
    assert [tuple(out.shape) for out in outs] == [
        (2, widen_factor * width, size >> i, size >> i)
        for i, width in enumerate((16, 32, 64))
    ]


@pytest.mark.parametrize('size', [32, 64])
def test_a_row_of_logits_for_each_image_and_a_gradient_for_each_parameter(size):
    model = classifier(10, classes=7)
    logits = model(torch.randn(2, 3, size, size), mode='tensor')
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize('out_indices', [(0,), (1,), (2,), (0, 2), (2, 1, 0)])
def test_out_indices_give_sums_but_the_last_stage_activated(out_indices):
    net = randomised(CIFARWideResNet(10, 2))
    images = torch.randn(2, 3, 16, 16)
    seen, _ = record(net, images)
    net.out_indices = out_indices
    outs = net(images)
    names = ('stage1_sum', 'stage2_sum', 'stage3')
    for index, out in zip(sorted(out_indices), outs, strict=True):
        assert torch.equal(out, seen[names[index]][0])


@pytest.mark.parametrize('depth', [10, 16])
@pytest.mark.parametrize('training', [False, True])
def test_taps_hold_the_sum_its_norm_and_that_after_relu(depth, training):
    net = randomised(CIFARWideResNet(depth, 2)).train(training)
    seen, outs = record(net, torch.randn(4, 3, 16, 16))
    # Each only once: a second call would move the running statistics again.
    assert {len(values) for values in seen.values()} == {1}
    for index in (1, 2, 3):
        total, pre, post = (
            seen[f'stage{index}{end}'][0] for end in ('_sum', '_pre', '')
        )
        # Were a ReLU in place, nothing negative would be left.
        assert (pre < 0).float().mean() > 0.05
        assert (total < 0).float().mean() > 0.05
        assert torch.equal(pre.relu(), post)
        norm = net.get_submodule(f'stage{index}_pre')
        moved = norm.num_batches_tracked.item()
        assert moved == training
        assert_close(norm(total), pre)
    assert torch.equal(outs[0], seen['stage3'][0])


def test_the_next_stage_starts_from_the_activated_map():
    net = randomised(CIFARWideResNet(16, 2))
    seen, _ = record(net, torch.randn(2, 3, 16, 16))
    first, second = net.stage2_sum
    x = seen['stage1'][0]
    x = first.conv2(first.bn2(first.conv1(x)).relu()) + first.shortcut(x)
    branch = second.conv1(second.bn1(x).relu())
    x = second.conv2(second.bn2(branch).relu()) + x
    assert torch.equal(seen['stage2_sum'][0], x)


def test_a_new_width_is_projected_from_the_activated_input_else_the_input_is_added():
    wide, narrow = (CIFARWideResNet(10, factor).stage1_sum[0] for factor in (2, 1))
    assert wide.shortcut.weight.shape == (32, 16, 1, 1)
    assert narrow.shortcut is None
    x = torch.randn(2, 16, 8, 8)
    for block in (wide, narrow):
        active = randomised(block).bn1(x).relu()
        branch = block.conv2(block.bn2(block.conv1(active)).relu())
        shortcut = wide.shortcut(active) if block is wide else x
        assert torch.equal(block(x), branch + shortcut)


def test_gradient_reaches_the_stem_through_a_pre_tap():
    net = randomised(CIFARWideResNet(10, 2))
    seen, _ = record(net, torch.randn(2, 3, 16, 16))
    seen['stage1_pre'][0].square().sum().backward()
    assert net.conv1.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in net.stage2_sum.parameters())


def test_initialisation_is_kaiming_fan_out_and_norms_one_and_zero():
    torch.manual_seed(0)
    net = CIFARWideResNet(16, 2)
    net.init_weights()
    weight = net.stage3_sum[0].conv1.weight  # of 64 channels makes 128
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    for norm in (net.stage3_pre, net.stage1_sum[0].bn2):
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert torch.equal(norm.bias, torch.zeros_like(norm.bias))


def test_conv_norm_and_channels_come_from_the_config():
    net = CIFARWideResNet(10, 1, in_channels=1, norm_cfg=dict(type='GN', num_groups=4))
    assert not [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert net(torch.randn(1, 1, 16, 16))[0].shape == (1, 64, 4, 4)


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(depth=4), r'`backbone.depth` = 4: .*6 n \+ 4.*Use 10'),
        (dict(depth=20), '`backbone.depth` = 20'),
        (dict(depth=16, widen_factor=0), '`backbone.widen_factor` = 0.*Use 1'),
        (dict(depth=16, out_indices=(3,)), r'`backbone.out_indices` = \(3,\)'),
        (dict(depth=16, out_indices=()), r'`backbone.out_indices` = \(\)'),
    ],
)
def test_bad_arguments_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        CIFARWideResNet(**dict(dict(widen_factor=2), **options))
