"""Copies to a device, in one piece and from memory that it can read by itself."""

from unittest.mock import Mock

import pytest
import torch

from cakd_mm.utils import transfer
from cakd_mm.utils.transfer import send, send_together

HOST, META = torch.device('cpu'), torch.device('meta')
TENSORS = [
    torch.tensor([True, False, True]),
    torch.arange(6).view(2, 3),
    torch.tensor(2.5, dtype=torch.float64),
    torch.zeros(0, 4, dtype=torch.float16),
    torch.arange(7, dtype=torch.uint8)[1::2],
    torch.randn(4, 3).T,
    torch.tensor([1 - 2j]),
    torch.tensor([-(2**62)]),
    torch.tensor([0.5, -1.0], dtype=torch.bfloat16),
]


def test_tensors_of_any_kind_make_one_copy(monkeypatch):
    copied = []

    def copy(tensor, device):
        copied.append(tensor)
        return tensor.to(device, copy=True)

    monkeypatch.setattr(transfer, 'send', copy)
    found = transfer._send_packed(TENSORS, HOST)
    for one, other in zip(found, TENSORS, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert torch.equal(one, other)
    [packed] = copied
    assert packed.numel() == sum(x.numel() * x.element_size() for x in TENSORS)


def test_tensors_of_two_devices():
    here, there = torch.arange(3), torch.zeros(2, device=META)
    found = send_together([here, there, here], META)
    assert [x.shape for x in found] == [(3,), (2,), (3,)]
    assert found[1] is there
    assert all(x.device == META for x in found)
    assert send_together([here], HOST)[0] is here
    assert send_together([], META) == []


@pytest.mark.parametrize('is_pinned', [False, True])
@pytest.mark.parametrize('can_pin', [False, True])
def test_a_copy_without_a_wait_is_from_pinned_memory(can_pin, is_pinned, monkeypatch):
    monkeypatch.setattr(transfer, '_has_pinned_memory', lambda: can_pin)
    tensor = Mock(device=HOST)
    tensor.is_pinned.return_value = is_pinned
    send(tensor, torch.device('xpu'))
    source = tensor.pin_memory() if can_pin and not is_pinned else tensor
    source.to.assert_called_once_with(torch.device('xpu'), non_blocking=True)


def test_apples_gpus_and_the_host_are_waited_for():
    """PyTorch frees what an Apple GPU is still to read."""
    for source, target in ((HOST, torch.device('mps')), (META, HOST), (HOST, HOST)):
        tensor = Mock(device=source)
        send(tensor, target)
        tensor.to.assert_called_once_with(target)


@pytest.mark.skipif(torch.cuda.is_available(), reason='has pinned memory')
def test_memory_is_not_pinned_without_a_gpu():
    assert not transfer._has_pinned_memory()
