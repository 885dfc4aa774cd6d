"""The nets of all pairs on a GPU: outputs and gradients of the host, without a wait."""

import pytest
import torch
from fake_gpu import DEVICE, fake_gpu
from known_nets import NETS
from torch.testing import assert_close

from cakd_mm.models.runtime.teacher_runtime import TOLERANCE


@pytest.mark.parametrize('name', [name for name in NETS if name != 'resnet50'])
def test_a_net(name):
    images = torch.randn(2, 3, 32, 32)
    found = []
    for device in ('cpu', DEVICE):
        with fake_gpu() as gpu:
            net = NETS[name]().train().to(device)
            inputs = images.to(device)
            with gpu.listening() as ledger:
                net(inputs, mode='tensor').square().mean().backward()
            gradients = [x.grad.cpu() for x in net.parameters()]
            found.append([*gradients, *(x.cpu() for x in net.state_dict().values())])
    assert ledger.waits == []
    assert_close(*found, rtol=0, atol=0)


@pytest.mark.parametrize('name', NETS)
@torch.no_grad()
def test_tf32_moves_the_scores_by_more_than_a_fast_teacher_may_differ(name):
    torch.manual_seed(0)
    images, net = torch.randn(4, 3, 32, 32), NETS[name]().eval()
    exact = net(images, mode='tensor')
    with fake_gpu(rounds_to_tf32=True):
        rounded = net.to(DEVICE)(images.to(DEVICE), mode='tensor').host
    error = (rounded - exact).abs().max() / exact.abs().max()
    assert TOLERANCE[torch.float32] < error < 3e-4
