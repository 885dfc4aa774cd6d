from contextlib import contextmanager

import pytest
import torch
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn
from torch.testing import assert_close

from cakd_mm.engine.optimizers import BF16OptimWrapper, CPUAmpOptimWrapper


class Recorded(nn.Linear):
    """A layer that remembers the type of what it computed."""

    def forward(self, x):
        out = super().forward(x)
        self.computed = out.dtype
        return out


def build(lr=0.5, **options):
    torch.manual_seed(0)
    model = nn.Sequential(Recorded(8, 4), nn.ReLU(), Recorded(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    wrapper = OPTIM_WRAPPERS.build(
        dict(type='BF16OptimWrapper', optimizer=optimizer, **options)
    )
    assert type(wrapper) is BF16OptimWrapper
    return model, wrapper


def test_configs_of_former_versions_find_it():
    assert OPTIM_WRAPPERS.get('CPUAmpOptimWrapper') is BF16OptimWrapper


def batches(count):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(16, 8, generator=generator) for _ in range(count)]


def loss_of(model, batch):
    return model(batch).float().pow(2).mean()


def step(model, wrapper, batch):
    with wrapper.optim_context(model):
        loss = loss_of(model, batch)
    wrapper.update_params(loss)


@pytest.mark.parametrize('options', [{}, dict(dtype='bfloat16')])
def test_computes_in_bf16_and_keeps_weights_in_float32(options):
    model, wrapper = build(**options)
    twin, _ = build()
    batch = batches(1)[0]
    with wrapper.optim_context(model):
        loss = loss_of(model, batch)
    assert model[0].computed is model[2].computed is torch.bfloat16
    assert loss.dtype is torch.float32
    wrapper.backward(loss)
    with torch.autocast('cpu', torch.bfloat16):
        loss_of(twin, batch).backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert ours.dtype is ours.grad.dtype is torch.float32
        assert torch.equal(ours.grad, theirs.grad)
        assert ours.grad.abs().max() > 0
    loss_of(model, batch)
    assert model[0].computed is torch.float32, 'autocast outlived its context'


def test_steps_without_loss_scaling():
    model, wrapper = build()
    twin, _ = build()
    batch = batches(1)[0]
    step(model, wrapper, batch)
    with torch.autocast('cpu', torch.bfloat16):
        loss_of(twin, batch).backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert_close(ours.detach(), theirs.detach() - 0.5 * theirs.grad, rtol=0, atol=0)
    assert 'loss_scaler' not in wrapper.state_dict()


def test_former_versions_name():
    found = OPTIM_WRAPPERS.get('CPUAmpOptimWrapper')
    assert found is CPUAmpOptimWrapper is BF16OptimWrapper


@pytest.mark.parametrize('dtype', ['float16', torch.float16, 'float32', 'half'])
def test_refuses_any_other_type_by_name(dtype):
    with pytest.raises(ValueError, match=r'optim_wrapper\.dtype') as caught:
        build(dtype=dtype)
    message = str(caught.value)
    assert repr(dtype) in message
    assert "Write dtype='bfloat16'" in message


def test_ranks_exchange_gradients_once_per_accumulated_step():
    """As in mmengine's wrapper: no all-reduce but at the last of the parts."""
    model, wrapper = build(accumulative_counts=2)
    entered = []

    @contextmanager
    def no_sync():
        entered.append(wrapper._inner_count)
        yield

    model.no_sync = no_sync
    wrapper.initialize_count_status(model, 0, 4)
    for batch in batches(4):
        step(model, wrapper, batch)
    assert entered == [0, 2]
