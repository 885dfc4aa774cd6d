"""Normalisation is folded where it follows a convolution, and nowhere else."""

import pytest
import torch
from known_nets import NETS, spread
from torch import nn

from cakd_mm.models.runtime.folding import fold_batchnorm


def run(net):
    return net(torch.zeros(2, 3, 32, 32))


def norms(net):
    return [n for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)]


def convolution(bias=True):
    return nn.Conv2d(3, 3, 3, padding=1, bias=bias)


class Net(nn.Module):
    """Layers by name, and a forward pass of them."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.how = forward
        for name, layer in layers.items():
            self.add_module(name, layer)
        torch.manual_seed(0)
        spread(self).eval()

    def forward(self, x):
        return self.how(self, x)


@pytest.mark.parametrize('name', sorted(NETS))
def test_known_nets_compute_the_same(name):
    net = NETS[name]().eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    before = norms(net)
    with torch.no_grad():
        expected = net(images, mode='tensor')
    folded, kept = fold_batchnorm(net, lambda net: net(images, mode='tensor'))
    assert kept == []
    assert sorted(folded + norms(net)) == sorted(before)
    # The first norm of a wide residual block takes a sum, or what the shortcut takes.
    blocks = 6
    assert len(folded) == (blocks if name == 'wrn16-1' else len(before))
    with torch.no_grad():
        found = net(images, mode='tensor')
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not torch.equal(found, expected)


def test_the_order_of_registration_is_not_that_of_the_calls():
    net = Net(
        lambda net, x: net.norm_a(net.a(net.norm_b(net.b(x)))),
        a=convolution(),
        b=convolution(),
        norm_a=nn.BatchNorm2d(3),
        norm_b=nn.BatchNorm2d(3),
    )
    images = torch.randn(2, 3, 8, 8)
    expected = net(images)
    assert fold_batchnorm(net, run) == (['norm_b', 'norm_a'], [])
    torch.testing.assert_close(net(images), expected)


@pytest.mark.parametrize(
    'forward',
    [
        lambda net, x: net.norm(net.conv(x).relu()),
        lambda net, x: net.norm(net.conv(net.conv(x))),
        lambda net, x: net.norm(net.conv(net.norm(x))),
        lambda net, x: net.norm(net.conv(x)) + net.other(net.conv(x)),
        lambda net, x: net.norm(y := net.conv(x)).add(y),
        lambda net, x: torch.cat([net.norm(y := net.conv(x)), y]),
    ],
    ids=['activation', 'conv twice', 'norm twice', 'two norms', 'sum', 'in a list'],
)
def test_what_does_not_follow_once_is_left_alone(forward):
    net = Net(
        forward, conv=convolution(), norm=nn.BatchNorm2d(3), other=nn.BatchNorm2d(3)
    )
    assert fold_batchnorm(net, run) == ([], [])
    assert norms(net) == ['norm', 'other']


def test_one_output_for_two_norms_is_left_alone():
    def forward(net, x):
        x = net.conv(x)
        return net.norm(x) + net.other(x)

    net = Net(
        forward, conv=convolution(), norm=nn.BatchNorm2d(3), other=nn.BatchNorm2d(3)
    )
    assert fold_batchnorm(net, run) == ([], [])


def test_statistics_of_the_batch_cannot_be_folded():
    net = Net(
        lambda net, x: net.norm(net.conv(x)),
        conv=convolution(),
        norm=nn.BatchNorm2d(3, track_running_stats=False),
    )
    assert fold_batchnorm(net, run) == ([], [])


def test_a_convolution_of_a_special_kind_is_left_alone():
    class Special(nn.Conv2d):
        """Has more to it than weight and bias."""

    net = Net(
        lambda net, x: net.norm(net.conv(x)),
        conv=Special(3, 3, 1),
        norm=nn.BatchNorm2d(3),
    )
    assert fold_batchnorm(net, run) == ([], [])


@pytest.mark.parametrize('kept', ['conv', 'norm'])
def test_what_is_looked_at_is_kept(kept):
    net = Net(
        lambda net, x: net.norm(net.conv(x)), conv=convolution(), norm=nn.BatchNorm2d(3)
    )
    assert fold_batchnorm(net, run, {kept}) == ([], ['norm'])
    assert norms(net) == ['norm']


def test_no_hook_stays_behind():
    net = NETS['resnet8']().eval()
    fold_batchnorm(net, lambda net: net(torch.zeros(2, 3, 32, 32), mode='tensor'))
    for module in net.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
