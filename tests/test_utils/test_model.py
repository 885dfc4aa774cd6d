import pytest
import torch
from mmengine.model import (
    ExponentialMovingAverage,
    MMDistributedDataParallel,
    is_model_wrapper,
)
from torch import nn
from torch.nn.parallel import DataParallel

from cakd_mm.utils.model import unwrap


def wrapped(kind, model):
    """The wrapper around a model, without the processes it is made for."""
    wrapper = kind.__new__(kind)
    nn.Module.__init__(wrapper)
    wrapper.module = model
    return wrapper


@pytest.mark.parametrize(
    'kind', [MMDistributedDataParallel, DataParallel], ids=['ddp', 'dp']
)
def test_a_wrapper_gives_the_model_inside(kind):
    model = nn.Linear(2, 2)
    wrapper = wrapped(kind, model)
    assert is_model_wrapper(wrapper)
    assert unwrap(wrapper) is model


def test_a_plain_model_is_itself():
    model = nn.Linear(2, 2)
    assert unwrap(model) is model


def test_a_part_called_module_is_no_wrapper():
    model = nn.Sequential()
    model.module = nn.Linear(2, 2)
    assert unwrap(model) is model
    average = ExponentialMovingAverage(nn.Linear(2, 2))
    assert unwrap(average) is average
    assert torch.equal(average.module.weight, unwrap(average).module.weight)
