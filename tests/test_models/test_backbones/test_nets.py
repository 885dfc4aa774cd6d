"""What every backbone of this package does; its numbers are in ``test_parity.py``."""

from typing import NamedTuple

import pytest
import torch
from known_nets import spread
from tiny import image_classifier
from torch import nn
from torch.testing import assert_close

from cakd_mm.models import backbones

WIDE = (32, 64, 128, 256)


class Net(NamedTuple):
    """A backbone as small as it comes.

    Attributes:
        settings: Of the backbone.
        widths: Channels of the maps that ``out_indices`` select.
        size: Of images that the net can halve as often as it does.
        first: The size of the first map of an image of 32 pixels.
        fan_out: Whether convolutions start by Kaiming's fan-out rule, or else as
            torch starts them.
        layers: A convolution and a norm whose start is looked at.
    """

    kind: str
    settings: dict
    widths: tuple[int, ...]
    size: int
    first: int
    fan_out: bool
    layers: tuple[str, str]


NETS = [
    Net(
        'CIFARResNet',
        dict(depth=8, widths=WIDE),
        *(WIDE[1:], 16, 32, True),
        ('stage3.0.conv1', 'stage3.0.bn2'),
    ),
    Net(
        'CIFARWideResNet',
        dict(depth=10, widen_factor=2),
        *((32, 64, 128), 16, 32, True),
        ('stage3_sum.0.conv1', 'stage3_pre'),
    ),
    Net(
        'CIFARShuffleNetV1',
        {},
        *((240, 480, 960), 16, 16, False),
        ('stage3.1.conv2', 'stage3.1.bn3'),
    ),
    Net(
        'CIFARShuffleNetV2',
        {},
        *((116, 232, 1024), 16, 16, False),
        ('conv2', 'bn2'),
    ),
    Net(
        'MobileNetV1',
        {},
        *((128, 256, 512, 1024), 64, 8, False),
        ('stage4.1.conv2', 'stage4.1.bn2'),
    ),
]
EVERY = pytest.mark.parametrize('net', NETS, ids=lambda net: net.kind)


def make(net, **settings):
    torch.manual_seed(0)
    return getattr(backbones, net.kind)(**(net.settings | settings))


def trained(net):
    """A net whose normalisations have statistics of their own, as after training."""
    model = make(net)
    model.init_weights()
    return spread(model).eval()


def classifier(kind, width, classes, **settings):
    backbone = dict(type=kind, **settings)
    return image_classifier(backbone, width, classes)


def record(model, images):
    """Return what came out of every tap, and the result."""
    taps = [name for name in model.tap_channels if name != 'pooled']
    seen = {}
    modules = dict(model.named_modules())  # as mmrazor's recorders find them
    for name in taps:

        def keep(module, args, output, name=name):
            assert name not in seen, 'it ran twice'
            seen[name] = output

        modules[name].register_forward_hook(keep)
    return seen, model(images)


@EVERY
@pytest.mark.parametrize('training', [False, True])
def test_taps_lie_before_and_after_the_last_relu(net, training):
    model = trained(net).train(training)
    seen, outs = record(model, torch.randn(4, 3, net.size, net.size))
    for index in range(1, len(net.widths) + 1):
        pre, post = seen[f'stage{index}_pre'], seen[f'stage{index}']
        # Were the last ReLU in place, nothing negative would be left.
        assert (pre < 0).float().mean() > 0.02
        if net.kind == 'CIFARShuffleNetV2':  # then come its halves, turn by turn
            order = torch.arange(pre.shape[1]).view(2, -1).T.flatten()
            assert pre.chunk(2, dim=1)[0].min() == 0  # it has been through a ReLU
            pre = pre[:, order]
        assert torch.equal(pre.relu(), post)
        if net.kind == 'CIFARWideResNet':
            norm = model.get_submodule(f'stage{index}_pre')
            assert norm.num_batches_tracked.item() == training
            total = seen[f'stage{index}_sum'].detach()
            assert (total < 0).float().mean() > 0.05
            expected = nn.functional.batch_norm(
                *(total, norm.running_mean.clone(), norm.running_var.clone()),
                *(norm.weight, norm.bias, training),
            )
            assert_close(seen[f'stage{index}_pre'], expected)
    last = post
    if net.kind == 'CIFARShuffleNetV2' and not training:
        last = model.bn2(model.conv2(post)).relu()
    if net.kind != 'CIFARShuffleNetV2' or not training:
        assert torch.equal(outs[0], last)
    assert len(outs) == 1


@EVERY
@pytest.mark.parametrize('indices', [(1,), (2, 0)])
def test_out_indices_select_maps_in_order_of_depth(net, indices):
    model = trained(net)
    model.out_indices = indices
    maps, outs = record(model, torch.randn(2, 3, 64, 64))
    assert len(outs) == len(indices)
    for index, out in zip(sorted(indices), outs, strict=True):
        size = 2 * net.first >> index  # the stages halve the size
        assert out.shape[1:] == (net.widths[index], size, size)
        name = f'stage{index + 1}'
        if net.kind == 'CIFARWideResNet' and index < 2:
            name = f'{name}_sum'
        expected = maps[name]
        if net.kind == 'CIFARShuffleNetV2' and index == 2:
            expected = model.bn2(model.conv2(expected)).relu()
        assert torch.equal(out, expected)


@EVERY
def test_gradients_go_through_a_tap_and_no_deeper(net):
    model = trained(net)
    seen, outs = record(model, torch.randn(2, 3, net.size, net.size))
    seen['stage1_pre'].square().sum().backward(retain_graph=True)
    assert model.conv1.weight.grad.abs().sum() > 0
    deeper = [p for name, p in model.named_parameters() if name.startswith('stage3')]
    assert deeper and all(p.grad is None for p in deeper)
    outs[0].square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


@EVERY
def test_how_it_starts(net):
    model = make(net)
    model.init_weights()
    conv, norm = (model.get_submodule(name) for name in net.layers)
    weight = conv.weight
    if net.fan_out:
        expected = (2 / (weight.shape[0] * 9)) ** 0.5
    else:
        bound = weight[0].numel() ** -0.5
        expected = bound / 3**0.5
        assert bound * 0.95 < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(expected, rel=0.05)
    assert torch.equal(norm.weight, torch.ones_like(norm.weight))
    assert torch.equal(norm.bias, torch.zeros_like(norm.bias))


@EVERY
def test_norm_and_channels_come_from_the_config(net):
    model = make(net, in_channels=1, norm_cfg=dict(type='GN', num_groups=2))
    assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    [out] = model(torch.randn(1, 1, net.size, net.size))
    assert out.shape[:2] == (1, net.widths[-1])


# Sizes that no file beside the checkout is needed for.


@pytest.mark.parametrize(
    ('kind', 'settings', 'width', 'classes', 'count', 'entries'),
    [
        ('CIFARResNet', dict(depth=56), 64, 200, 868_120, 344),
        ('CIFARResNet', dict(depth=8, widths=WIDE), 256, 100, 1_233_540, 62),
        ('CIFARWideResNet', dict(depth=40, widen_factor=2), 128, 200, 2_268_056, 227),
        # The 16 channels of the stem need no projection to 16.
        ('CIFARWideResNet', dict(depth=10, widen_factor=1), 64, 100, 83_700, 46),
        ('CIFARShuffleNetV1', {}, 960, 100, 949_258, 296),
        ('CIFARShuffleNetV2', {}, 1024, 200, 1_458_028, 338),
        ('MobileNetV1', {}, 1024, 1000, 4_231_976, 6 + 13 * 12 + 2),
    ],
)
def test_parameters_and_entries_of_a_checkpoint(
    kind, settings, width, classes, count, entries
):
    """There are none for the taps."""
    model = classifier(kind, width, classes, **settings)
    assert sum(p.numel() for p in model.parameters()) == count
    assert len(model.state_dict()) == entries


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
    ('kind', 'settings', 'width', 'classes', 'size', 'count'),
    [
        ('CIFARWideResNet', dict(depth=16, widen_factor=2), 128, 100, 32, 101_118_464),
        ('CIFARShuffleNetV1', {}, 960, 100, 32, 38_691_456),
        ('CIFARShuffleNetV2', {}, 1024, 100, 32, 44_504_448),
        # The paper says 569 million.
        ('MobileNetV1', {}, 1024, 1000, 224, 568_740_352),
    ],
)
def test_multiplications(kind, settings, width, classes, size, count):
    assert macs(classifier(kind, width, classes, **settings), size) == count


@pytest.mark.parametrize(
    ('kind', 'settings', 'match'),
    [
        ('CIFARResNet', dict(depth=2), r'`backbone.depth` = 2.*6 n \+ 2.*Use 8'),
        ('CIFARResNet', dict(depth=18), '`backbone.depth` = 18'),
        (
            *('CIFARResNet', dict(depth=8, widths=(16, 32, 64))),
            '`backbone.widths`.*Four numbers',
        ),
        (
            *('CIFARWideResNet', dict(depth=20, widen_factor=2)),
            r'`backbone.depth` = 20: .*6 n \+ 4',
        ),
        (
            *('CIFARWideResNet', dict(depth=16, widen_factor=0)),
            '`backbone.widen_factor` = 0.*Use 1',
        ),
    ],
)
def test_wrong_settings_are_named(kind, settings, match):
    with pytest.raises(ValueError, match=match):
        getattr(backbones, kind)(**settings)


@EVERY
@pytest.mark.parametrize('empty', [False, True])
def test_maps_that_are_not_there_are_named(net, empty):
    stages = len(net.widths)
    indices = () if empty else (stages,)
    match = rf'`backbone.out_indices` = \({"" if empty else stages}.*0 to {stages - 1}'
    with pytest.raises(ValueError, match=match):
        make(net, out_indices=indices)
