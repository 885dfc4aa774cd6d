"""MapConnector against loops over channels and positions."""

import pytest
import torch
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.connectors.map_connector import resize


def build(**settings):
    torch.manual_seed(0)
    settings = dict(in_channels=3, out_channels=5) | settings
    return MODELS.build(dict(type='MapConnector', **settings)).double()


def numbers(*shape):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def project(connector, feature):
    """A 1 x 1 convolution with a bias, by loops."""
    conv = connector.conv_module.conv
    samples, channels, height, width = feature.shape
    out = torch.zeros(samples, conv.out_channels, height, width, dtype=torch.float64)
    for n in range(samples):
        for k in range(conv.out_channels):
            for y in range(height):
                for x in range(width):
                    out[n, k, y, x] = conv.bias[k] + sum(
                        conv.weight[k, c, 0, 0] * feature[n, c, y, x]
                        for c in range(channels)
                    )
    return out.detach()


def shrink(feature, height, width):
    """Means of equal blocks, by loops."""
    high, wide = feature.shape[2] // height, feature.shape[3] // width
    rows = [
        [
            feature[:, :, high * y : high * (y + 1), wide * x : wide * (x + 1)].mean(
                (2, 3)
            )
            for x in range(width)
        ]
        for y in range(height)
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def test_it_is_linear_and_keeps_the_size_by_default():
    connector, feature = build(), numbers(2, 3, 4, 5)
    got = connector(feature)
    assert_close(got, project(connector, feature))
    assert got.min() < 0 < got.max()


def test_an_activation_can_be_had():
    linear, rectified = build(), build(act_cfg=dict(type='ReLU'))
    rectified.load_state_dict(linear.state_dict())
    feature = numbers(2, 3, 4, 5)
    assert_close(rectified(feature), linear(feature).relu())


@pytest.mark.parametrize(
    ('size', 'height', 'width'), [(2, 2, 2), ((2, 3), 2, 3), ([1, 6], 1, 6)], ids=str
)
def test_a_larger_map_is_averaged_down(size, height, width):
    connector, feature = build(size=size), numbers(2, 3, 4, 6)
    want = project(connector, shrink(feature, height, width))
    assert_close(connector(feature), want)


def test_a_smaller_map_is_interpolated():
    """Between the centres of two pixels: 3/4 of the nearer, 1/4 of the other."""
    feature = torch.tensor([[[[1.0, 5.0]]]]).expand(2, 3, 1, 2).double()
    connector = build(size=(1, 4))
    line = torch.tensor([1.0, 2.0, 4.0, 5.0]).double().expand(2, 3, 1, 4)
    assert_close(connector(feature), project(connector, line))


def test_a_map_of_the_right_size_is_left_alone():
    feature = numbers(2, 3, 4, 6)
    assert resize(feature, (4, 6)) is feature
    assert_close(resize(feature, (2, 6)), shrink(feature, 2, 6))
    for size in ((8, 12), (8, 3), (2, 7)):
        got = resize(feature, size)
        assert got.shape == (2, 3, *size)
        assert feature.min() <= got.min() and got.max() <= feature.max()
    ones = torch.ones(1, 2, 4, 6)
    assert_close(resize(ones, (8, 3)), torch.ones(1, 2, 8, 3))


def test_further_settings_reach_the_convolution():
    connector = build(kernel_size=3, padding=1, norm_cfg=dict(type='BN'))
    conv = connector.conv_module.conv
    assert (conv.kernel_size, conv.padding, conv.bias) == ((3, 3), (1, 1), None)
    feature, got = numbers(4, 3, 4, 5), connector(numbers(4, 3, 4, 5))
    want = torch.nn.functional.conv2d(feature, conv.weight, padding=1)
    mean, var = want.mean((0, 2, 3)), want.var((0, 2, 3), correction=0)
    view = (1, -1, 1, 1)
    assert_close(got, (want - mean.view(view)) / (var.view(view) + 1e-5).sqrt())


def test_a_memory_format_changes_nothing():
    connector, feature = build(size=2), numbers(2, 3, 4, 6)
    last = feature.contiguous(memory_format=torch.channels_last)
    assert_close(connector(last), connector(feature))


@pytest.mark.parametrize('size', [None, 1, (2, 3), 5])
def test_gradcheck(size):
    feature = numbers(1, 3, 2, 4).requires_grad_()
    assert torch.autograd.gradcheck(build(size=size), feature)


def test_its_weights_are_trained():
    connector = build(size=2)
    connector(numbers(2, 3, 4, 6)).square().sum().backward()
    gradients = [p.grad.abs().max() for p in connector.parameters()]
    assert len(gradients) == 2
    assert min(gradients) > 0


@pytest.mark.parametrize(
    ('shape', 'message'),
    [
        ((2, 4, 3, 3), r'MapConnector\.in_channels=3.*has 4.*\(2, 4, 3, 3\)'),
        ((2, 3), r'MapConnector got.*\(2, 3\): tap a map \(N, C, H, W\);.*data_idx'),
        ((2, 6, 3), r'MapConnector got.*\(2, 6, 3\): tap a map'),
    ],
)
def test_wrong_features_are_named(shape, message):
    with pytest.raises(ValueError, match=message):
        build()(torch.zeros(shape).double())
