"""BottleneckConnector against a loop over positions, and in a config."""

import pytest
import torch
from mmrazor.registry import MODELS
from torch.testing import assert_close


def build(**settings):
    torch.manual_seed(0)
    settings = dict(in_channels=3, out_channels=5, mid_channels=2) | settings
    return MODELS.build(dict(type='BottleneckConnector', **settings)).double()


def maps(*shape):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def at(feature, y, x):
    """The channels at a position, which are 0 outside of the map."""
    inside = 0 <= y < feature.shape[2] and 0 <= x < feature.shape[3]
    return feature[:, :, y, x] if inside else torch.zeros_like(feature[:, :, 0, 0])


def convolve(conv, feature):
    reach = conv.weight.shape[-1] // 2
    found = torch.zeros(
        len(feature), len(conv.weight), *feature.shape[2:], dtype=torch.float64
    )
    for y in range(feature.shape[2]):
        for x in range(feature.shape[3]):
            found[:, :, y, x] = conv.bias
            for i in range(-reach, reach + 1):
                for j in range(-reach, reach + 1):
                    weight = conv.weight[:, :, i + reach, j + reach]
                    found[:, :, y, x] += at(feature, y + i, x + j) @ weight.T
    return found


def test_against_a_loop_over_positions():
    connector, feature = build(), maps(2, 3, 4, 5)
    steps = [*connector.narrow, connector.conv_module.conv]
    assert [step.weight.shape[-1] for step in steps] == [1, 3, 1]
    wanted = feature
    for step in steps:
        wanted = convolve(step, wanted)
    assert_close(connector(feature), wanted)


def test_norm_and_activation_follow_the_last_alone():
    connector = build(norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU'))
    found = connector(maps(4, 3, 4, 5))
    assert found.min() == 0 < found.max()
    assert sum(isinstance(x, torch.nn.BatchNorm2d) for x in connector.modules()) == 1


def test_the_size_is_the_teachers():
    assert build()(maps(2, 3, 4, 4), maps(2, 5, 8, 8)).shape == (2, 5, 8, 8)
    assert build(size=2)(maps(2, 3, 4, 4)).shape == (2, 5, 2, 2)


def test_the_weights_that_the_docstring_counts():
    connector = build(in_channels=1024, out_channels=2048, mid_channels=256)
    assert 1.3e6 < sum(x.numel() for x in connector.parameters()) < 1.45e6


@pytest.mark.parametrize('wrong', [0, 1.5, None, True])
def test_a_wrong_width_is_named(wrong):
    with pytest.raises(ValueError, match=f'mid_channels` = {wrong}'):
        build(mid_channels=wrong)


def test_another_feature_is_named():
    with pytest.raises(ValueError, match=r'BottleneckConnector\.in_channels=3.*has 4'):
        build()(maps(2, 4, 3, 3))
    with pytest.raises(ValueError, match=r'BottleneckConnector.*\(2, 3\).*Tap a map'):
        build()(maps(2, 3))
