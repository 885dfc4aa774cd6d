"""PooledConnector against loops over its weights."""

import pytest
import torch
from mmrazor.registry import MODELS
from torch.testing import assert_close


def build(**settings):
    torch.manual_seed(0)
    settings = dict(in_channels=3, out_channels=5) | settings
    return MODELS.build(dict(type='PooledConnector', **settings)).double()


def numbers(*shape):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def project(connector, vector):
    """Every output channel of one vector, by a loop."""
    bias = connector.linear.bias
    return [
        sum(w * x for w, x in zip(line, vector, strict=True))
        + (bias[k].item() if bias is not None else 0)
        for k, line in enumerate(connector.linear.weight.tolist())
    ]


@pytest.mark.parametrize('bias', [False, True])
def test_vectors(bias):
    connector, feature = build(bias=bias), numbers(4, 3)
    got = connector(feature)
    assert got.shape == (4, 5)
    for row, vector in zip(got.tolist(), feature.tolist(), strict=True):
        assert row == pytest.approx(project(connector, vector))
    assert (connector.linear.bias is not None) == bias


def test_every_token_is_a_vector_and_a_map_is_averaged_first():
    connector, tokens = build(), numbers(2, 6, 3)
    got = connector(tokens)
    assert got.shape == (2, 6, 5)
    for sample in range(2):
        assert_close(got[sample], connector(tokens[sample]))
    feature = numbers(2, 3, 4, 5)
    got = connector(feature)
    assert_close(got, connector(feature.flatten(2).sum(2) / 20))
    last = feature.contiguous(memory_format=torch.channels_last)
    assert_close(connector(last), got)


@pytest.mark.parametrize('shape', [(2, 3), (2, 2, 3), (2, 3, 2, 2)], ids=str)
def test_gradcheck(shape):
    connector = build()
    assert len([*connector.parameters()]) == 2
    inputs = (numbers(*shape).requires_grad_(), *connector.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: connector(x), inputs)


@pytest.mark.parametrize(
    ('shape', 'message'),
    [
        ((4, 5), r'PooledConnector\.in_channels=3.*has 5.*\(4, 5\).*in_channels=5'),
        ((4, 3, 7), r'in_channels=3.*has 7.*\(4, 3, 7\)'),
        ((4, 8, 3, 3), r'in_channels=3.*has 8.*distiller\.connectors'),
        ((3,), r'PooledConnector.: It got.*\(3,\).*map.*vector.*tokens.*data_idx=0'),
        ((1, 3, 2, 2, 2), r'PooledConnector.: It got.*\(1, 3, 2, 2, 2\)'),
    ],
)
def test_wrong_features_are_named(shape, message):
    with pytest.raises(ValueError, match=message):
        build()(torch.zeros(shape).double())
