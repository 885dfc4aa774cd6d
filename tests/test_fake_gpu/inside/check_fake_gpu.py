"""The fake GPU itself."""

import pytest
import torch
from fake_gpu import DEVICE, NAME, fake_gpu
from torch.nn.functional import conv2d

NUMBERS = torch.tensor([1.0, 2, 3])
WAITING = {
    'aten._local_scalar_dense': lambda x: x.sum().item(),
    'aten.nonzero': lambda x: (x > 1).nonzero(),
    'aten.index by a mask': lambda x: x[x > 1],
    'aten.index by places on the host': lambda x: x[torch.tensor([0])],
    'aten._to_copy from the device': lambda x: x.to('cpu', non_blocking=True),
    'aten._to_copy to the device': lambda x: NUMBERS.to(DEVICE),
    'aten.copy_ from the device': lambda x: torch.empty(3).copy_(x),
    'aten.copy_ to the device': lambda x: x.copy_(NUMBERS),
    'a tensor of numbers of the host': lambda x: x.new_tensor([1.0, 2.0]),
    'aten.equal': lambda x: torch.equal(x, x),
}
FREE = {
    'place': lambda x: x[torch.arange(2, device=DEVICE)],
    'fill': lambda x: x.masked_fill(x > 1, 0),
    'number': lambda x: x + torch.tensor(1.0),
    'copy': lambda x: x.copy_(NUMBERS, non_blocking=True),
    'move': lambda x: NUMBERS.to(DEVICE, non_blocking=True),
}


@pytest.mark.parametrize('reason', WAITING)
def test_a_wait_is_listed_with_its_reason(reason):
    with fake_gpu() as gpu:
        there = NUMBERS.to(DEVICE)
        with gpu.listening() as ledger:
            WAITING[reason](there)
    assert [wait.split(', ')[0] for wait in ledger.waits] == [reason]


@pytest.mark.parametrize('name', FREE)
def test_other_operations_do_not_wait(name):
    with fake_gpu() as gpu:
        there = NUMBERS.to(DEVICE)
        with gpu.listening() as ledger:
            FREE[name](there)
    assert ledger.waits == []


def test_a_view_is_no_launch():
    with fake_gpu() as gpu:
        there = NUMBERS.to(DEVICE)
        with gpu.listening() as ledger:
            twice = there.view(3, 1).expand(3, 2).T * 2
    assert ledger.launches == ['aten.mul']
    assert torch.equal(twice.host, 2 * NUMBERS.expand(2, 3))


def test_a_tensor_of_the_host_is_refused():
    with fake_gpu():
        there = NUMBERS.to(DEVICE)
        with pytest.raises(RuntimeError, match=rf'add: tensors of .* and of {NAME}'):
            there + NUMBERS


def test_what_the_device_lacks_is_refused():
    with fake_gpu(has_float64=False):
        there = NUMBERS.to(DEVICE)
        with pytest.raises(TypeError, match='no float64'):
            there.double()


def test_gradients_are_those_of_the_host():
    torch.manual_seed(0)
    layer, images = torch.nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8)
    layer(images).square().sum().backward()
    wanted = layer.weight.grad
    layer.weight.grad = None
    with fake_gpu():
        layer.to(DEVICE)(images.to(DEVICE)).square().sum().backward()
    assert torch.equal(layer.weight.grad.host, wanted)


def test_tf32_rounds_the_factors_of_convolutions():
    torch.manual_seed(0)
    images, weight = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
    exact = conv2d(images.double(), weight.double())
    with fake_gpu(rounds_to_tf32=True):
        args = images.to(DEVICE), weight.to(DEVICE)
        error = (conv2d(*args).host - exact).abs().max() / exact.abs().max()
        with torch.backends.cudnn.flags(allow_tf32=False):
            same = conv2d(*args).host
    assert 1e-4 < error < 2e-3  # TF32 has ten bits.
    assert torch.equal(same, conv2d(images, weight))


def test_autocast_lowers_products_and_raises_sums():
    with fake_gpu():
        layer = torch.nn.Linear(3, 2).to(DEVICE)
        with torch.autocast(NAME, torch.bfloat16):
            made = layer(NUMBERS.to(DEVICE))
            assert made.dtype == torch.bfloat16
            assert made.softmax(0).dtype == torch.float32
        made.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32


def test_it_draws_numbers_of_its_own():
    with fake_gpu():
        torch.manual_seed(0)
        here, there = torch.rand(2), torch.rand(2, device=DEVICE)
        assert torch.equal(there.host, here)
        with torch.random.fork_rng(devices=[]):  # of the host alone
            torch.rand(2, device=DEVICE)
        further = torch.rand(2, device=DEVICE).host
        torch.manual_seed(0)
        numbers = torch.rand(6, device=DEVICE).host
        assert torch.equal(torch.rand(2), here)
    assert torch.equal(further, numbers[4:])
