"""MapConnector against a loop over its channels and means of blocks."""

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
    """A 1 x 1 convolution with a bias, by a loop over its channels."""
    conv = connector.conv_module.conv
    maps = [
        sum(weight * feature[:, c] for c, weight in enumerate(row)) + bias
        for row, bias in zip(conv.weight[:, :, 0, 0], conv.bias, strict=True)
    ]
    return torch.stack(maps, 1).detach()


def shrink(feature, height, width):
    """Means of equal blocks."""
    samples, channels, high, wide = feature.shape
    blocks = (height, high // height, width, wide // width)
    return feature.reshape(samples, channels, *blocks).mean((3, 5))


def test_it_is_linear_and_keeps_the_size_by_default():
    connector, feature = build(), numbers(2, 3, 4, 5)
    got = connector(feature)
    assert_close(got, project(connector, feature))
    assert got.min() < 0 < got.max()
    last = feature.contiguous(memory_format=torch.channels_last)
    assert_close(connector(last), got)
    rectified = build(act_cfg=dict(type='ReLU'))
    rectified.load_state_dict(connector.state_dict())
    assert_close(rectified(feature), got.relu())


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


def test_it_sees_the_size_of_the_teachers_map():
    """A size that is written stays, and so does a stride that leads to the size."""
    connector, feature = build(), numbers(2, 3, 4, 6)
    whole = connector(feature)
    assert_close(connector(feature, numbers(2, 9, 2, 3)), shrink(whole, 2, 3))
    assert_close(connector(feature, numbers(2, 9, 8, 9)), resize(whole, (8, 9)))
    assert torch.equal(connector(feature, numbers(2, 9, 4, 6)), whole)
    for teacher in (numbers(2, 9), numbers(2, 7, 9), (numbers(2, 9, 2, 3),)):
        assert torch.equal(connector(feature, teacher), whole)
    strided = build(stride=2)
    assert torch.equal(strided(feature, numbers(2, 9, 2, 3)), strided(feature))
    written = build(size=(4, 6), stride=2)
    assert written(feature, numbers(2, 9, 4, 6)).shape == (2, 5, 2, 3)
    connector.keeps_size = True
    assert torch.equal(connector(feature, numbers(2, 9, 2, 3)), whole)


def test_further_settings_reach_the_convolution():
    connector = build(kernel_size=3, padding=1, norm_cfg=dict(type='BN'))
    conv = connector.conv_module.conv
    assert (conv.kernel_size, conv.padding, conv.bias) == ((3, 3), (1, 1), None)
    feature, got = numbers(4, 3, 4, 5), connector(numbers(4, 3, 4, 5))
    want = torch.nn.functional.conv2d(feature, conv.weight, padding=1)
    mean, var = want.mean((0, 2, 3)), want.var((0, 2, 3), correction=0)
    view = (1, -1, 1, 1)
    assert_close(got, (want - mean.view(view)) / (var.view(view) + 1e-5).sqrt())


@pytest.mark.parametrize('size', [None, (2, 3), 5])
def test_gradcheck(size):
    feature = numbers(1, 3, 2, 4).requires_grad_()
    connector = build(size=size)
    assert len([*connector.parameters()]) == 2
    inputs = (feature, *connector.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: connector(x), inputs)


@pytest.mark.parametrize(
    ('shape', 'message'),
    [
        ((2, 4, 3, 3), r'MapConnector\.in_channels=3.*has 4.*\(2, 4, 3, 3\)'),
        (
            (2, 3),
            r"'MapConnector': It got a .*\(2, 3\)\. Tap a map .*; .*data_idx=0\.$",
        ),
        (
            (2, 3, 4),
            r"\(2, 3, 4\).*; for tokens.* write type='TokensToMapConnector'\.$",
        ),
    ],
)
def test_wrong_features_are_named(shape, message):
    with pytest.raises(ValueError, match=message):
        build()(torch.zeros(shape).double())
