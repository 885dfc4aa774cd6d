"""Two ranks stop in the step in which a parameter gets no gradient."""

from types import SimpleNamespace

import pytest
import torch
from ranks import two_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cakd_mm.engine.hooks import ExchangedGradientsHook

# Arguments of the wrapper, and whether it accumulates in the step without a gradient.
CASES = dict(
    plain=({}, False),
    static=(dict(static_graph=True), False),
    told=(dict(find_unused_parameters=True), False),
    accumulated=({}, True),
)
KEYS = dict(
    plain='`find_unused_parameters` = False',
    static='`model_wrapper_cfg.static_graph` = True',
)


class Net(nn.Module):
    """Two layers, the second of which may be left out."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(2, 2)
        self.has_second = True

    def forward(self, x):
        x = self.first(x)
        return self.second(x) if self.has_second else x


def run(rank, arguments, accumulates):
    """Leave the second layer out in the third step; return step and error."""
    torch.manual_seed(0)
    wrapper = DistributedDataParallel(Net(), **arguments)
    runner = SimpleNamespace(model=wrapper)
    for runner.iter in range(4):
        wrapper.module.has_second = runner.iter != 2
        wrapper.require_backward_grad_sync = not (accumulates and runner.iter == 2)
        wrapper(torch.full((1, 2), 1.0 + rank)).sum().backward()
        try:
            ExchangedGradientsHook().after_train_iter(runner, runner.iter)
        except ValueError as error:
            return runner.iter, str(error)
    return runner.iter, ''


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    def work(rank):
        return {name: run(rank, *case) for name, case in CASES.items()}

    return two_ranks(work, tmp_path_factory.mktemp('ranks'))


@pytest.mark.parametrize('case', CASES)
def test_both_stop_in_the_step_that_exchanges_nothing(ranks, case):
    for found in ranks:
        step, text = found[case]
        if case not in KEYS:
            assert (step, text) == (3, '')
            continue
        assert step == 2
        problem = 'second.weight, second.bias got no gradient in step 3,'
        assert text.startswith(f'{KEYS[case]}: {problem}')
        assert 'find_unused_parameters=True' in text
