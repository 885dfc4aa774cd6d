"""Averages of maps on the host; tests/test_fake_gpu has those of other devices."""

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d
from torch.testing import assert_close

from cakd_mm.models.averages import averaged


@pytest.mark.parametrize('size', [(5, 21), (8, 14), (1, 1), (3, 5), (5, 3)])
@pytest.mark.parametrize('memory_format', [torch.channels_last, None])
def test_they_are_those_of_adaptive_pooling(size, memory_format):
    """To the last bit, but where plain pooling averages another number than 2**k."""
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 40, 42)
    if memory_format is not None:
        maps = maps.contiguous(memory_format=memory_format)
    results = []
    for function in (averaged, adaptive_avg_pool2d):
        leaf = maps.clone().requires_grad_()
        found = function(leaf, size)
        found.square().sum().backward()
        results.append((found.detach(), leaf.grad))
    assert results[0][0].shape == (2, 3, *size)
    is_exact = size != (8, 14)
    assert_close(*results, rtol=0 if is_exact else 1e-6, atol=0 if is_exact else 1e-7)
