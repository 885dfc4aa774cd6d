"""A dry run may come between a forward and its backward."""

import torch
from known_nets import classifier

from cakd_mm.models.taps import dry_run


def count(module, inputs, output):
    module.calls += 1


def test_a_dry_run_changes_no_buffer_and_no_gradient():
    gradients = []
    for is_run in (False, True):
        net = classifier('resnet8').train()
        net.backbone.register_buffer('calls', torch.zeros(()))
        net.backbone.register_forward_hook(count)
        images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        loss = net(images, mode='tensor').square().sum()
        before = [(x, x.clone()) for x in net.buffers()]
        if is_run:
            assert dry_run(net).calls
        # They are the same tensors as well, because autograd has kept them.
        for after, (own, value) in zip(net.buffers(), before, strict=True):
            assert after is own
            assert torch.equal(after, value)
        loss.backward()
        gradients.append([p.grad for p in net.parameters()])
    assert all(map(torch.equal, *gradients))
