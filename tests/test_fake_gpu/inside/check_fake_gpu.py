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
    'aten.masked_select': lambda x: x.masked_select(x > 1),
    'aten.bincount': lambda x: x.long().bincount(),
    'aten._unique2': lambda x: x.unique(),
    'aten.unique_dim': lambda x: x.unique(dim=0),
    'aten.unique_consecutive': torch.unique_consecutive,
    'aten.repeat_interleave without output_size': lambda x: torch.repeat_interleave(
        x.long()
    ),
    'aten.index_put_ by a mask': lambda x: x.__setitem__(x > 1, -x[:2]),
    'aten.index_put_ by places on the host': lambda x: x.__setitem__(
        torch.tensor([0]), -x[:1]
    ),
    'synchronize': lambda x: torch.fakegpu.synchronize(),
}
FREE = {
    'place': lambda x: x[torch.arange(2, device=DEVICE)],
    'fill': lambda x: x.masked_fill(x > 1, 0),
    'one number under a mask': lambda x: x.__setitem__(x > 1, 0.0),
    'number': lambda x: x + torch.tensor(1.0),
    'copy': lambda x: x.copy_(NUMBERS, non_blocking=True),
    'move': lambda x: NUMBERS.to(DEVICE, non_blocking=True),
}
# What has tensors of both sides.
MIXED = {
    'aten.add: tensors of': lambda x: x + NUMBERS,
    'aten.gather: tensors of': lambda x: x.gather(0, torch.tensor([0])),
    'aten.index: a tensor of the host': lambda x: NUMBERS[x.long() - 1],
    'aten.index_put_: numbers of the host': lambda x: x.__setitem__(x > 0, NUMBERS),
}


def waits_of(run):
    with fake_gpu() as gpu:
        there = NUMBERS.to(DEVICE)
        with gpu.listening() as ledger:
            run(there)
    return ledger.waits


@pytest.mark.parametrize('reason', WAITING)
def test_a_wait_is_listed_with_its_reason(reason):
    assert [wait.split(', ')[0] for wait in waits_of(WAITING[reason])] == [reason]


@pytest.mark.parametrize('name', FREE)
def test_other_operations_do_not_wait(name):
    assert waits_of(FREE[name]) == []


def test_a_view_is_no_launch():
    with fake_gpu() as gpu:
        there = NUMBERS.to(DEVICE)
        with gpu.listening() as ledger:
            twice = there.view(3, 1).expand(3, 2).T * 2
            torch.empty_like(there)
        there + 1  # after the ledger
    assert ledger.launches == ['aten.mul']
    assert torch.equal(twice.host, 2 * NUMBERS.expand(2, 3))


@pytest.mark.parametrize('text', MIXED)
def test_a_tensor_of_the_host_is_refused(text):
    with fake_gpu():
        there = NUMBERS.to(DEVICE)
        with pytest.raises(RuntimeError, match=text):
            MIXED[text](there)


def test_what_the_device_lacks_is_refused():
    with fake_gpu(has_float64=False):
        there = NUMBERS.to(DEVICE)
        with pytest.raises(TypeError, match='no float64'):
            there.double()
    with fake_gpu():  # which has it again
        there.double()


def test_its_memory_is_its_own():
    here = NUMBERS.clone()
    with fake_gpu():
        there = here.to(DEVICE)
        back = there.cpu()
        here.zero_()
        assert there.add_(1) is there
    assert torch.equal(there.host, NUMBERS + 1)
    assert torch.equal(back, NUMBERS)


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
    cotangent = torch.randn(2, 4, 6, 6)
    results = []
    for kind, device in ((torch.float64, 'cpu'), (torch.float32, DEVICE)):
        with fake_gpu(rounds_to_tf32=True):
            leaves = [x.to(device, kind).requires_grad_() for x in (images, weight)]
            found = conv2d(*leaves)
            found.backward(cotangent.to(found))
            results.append(
                [x.detach().cpu() for x in (found, *(x.grad for x in leaves))]
            )
            with torch.backends.cudnn.flags(allow_tf32=False):
                same = conv2d(*leaves).detach().cpu()
    for exact, rounded in zip(*results, strict=True):
        error = (rounded - exact).abs().max() / exact.abs().max()
        assert 1e-4 < error < 2e-3  # TF32 has ten bits.
    assert torch.equal(same, conv2d(images, weight))


@pytest.mark.parametrize('product', [torch.mm, lambda a, b: torch.addmm(b - b, a, b)])
def test_tf32_rounds_the_factors_of_products_to_the_nearest(product):
    factor = torch.tensor([[1 + 3 * 2**-12]])
    for is_allowed, wanted in ((True, 1 + 2**-10), (False, factor.item())):
        torch.backends.cuda.matmul.allow_tf32 = is_allowed
        with fake_gpu(rounds_to_tf32=True):
            found = product(factor.to(DEVICE), torch.ones(1, 1, device=DEVICE))
        assert found.host.item() == wanted


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
    with fake_gpu(draws_apart=False):
        torch.manual_seed(0)
        torch.rand(2)
        assert torch.equal(torch.rand(2, device=DEVICE).host, numbers[2:4])
