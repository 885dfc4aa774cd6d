"""Every registered loss on a GPU: the values of the host, without a wait."""

import copy

import pytest
import torch
from fake_gpu import DEVICE, NAME, fake_gpu
from loss_cases import CASES, SCORERS, arguments, scores, value
from torch.testing import assert_close

from cakd_mm.models import widened

EVERY = pytest.mark.parametrize('case', CASES + SCORERS)
STEPS, FLOAT = 2, torch.float32


def total(loss, value):
    """Return what the distiller trains with."""
    return value if loss.auxiliary is None else value + loss.auxiliary


def steps(loss, device, autocast=False):
    """Train for some steps; return losses, gradients and terms, on the host."""
    found = []
    loss.to(device)
    for step in range(STEPS):
        student, teacher = (x.to(device) for x in scores(seed=step, dtype=FLOAT))
        with torch.autocast(NAME, torch.bfloat16, enabled=autocast):
            result = value(loss, student.requires_grad_(), teacher)
            loss_and_more = total(loss, result)
        loss_and_more.backward()
        found += [result.detach(), student.grad, *loss.terms.values()]
    found += [x.detach() for x in loss.state_dict().values()]
    return [x.cpu() for x in found]


@EVERY
def test_it_gives_what_the_host_gives(case):
    wanted = steps(case().train(), 'cpu')
    with fake_gpu():
        found = steps(case().train(), DEVICE)
    assert_close(found, wanted, rtol=3e-5, atol=1e-6)


@EVERY
def test_it_never_waits(case):
    """But for the first step, which may be looked at more closely."""
    with fake_gpu() as gpu:
        loss, waits = case().train().to(DEVICE), []
        for step in range(STEPS):
            student, teacher = (x.to(DEVICE) for x in scores(seed=step, dtype=FLOAT))
            fed = arguments(loss, student.requires_grad_(), teacher)
            if loss.needs_dataset:
                loss.indices = torch.arange(len(student))
            with gpu.listening() as ledger:
                total(loss, loss(**fed)).backward()
                list(loss.terms.values())
            waits.append(ledger.waits)
    assert waits[1:] == [[]] * (STEPS - 1)


@EVERY
def test_autocast_changes_nothing(case):
    """The losses, banks and statistics are computed in float32."""
    with fake_gpu():
        loss = case().train()
        wanted = steps(copy.deepcopy(loss), DEVICE)
        found = steps(loss, DEVICE, autocast=True)
    assert_close(found, wanted, rtol=0, atol=0)


@EVERY
def test_it_needs_no_float64(case, monkeypatch):
    monkeypatch.setattr(widened, 'WITHOUT_FLOAT64', {NAME})
    wanted = steps(case().train(), 'cpu')
    with fake_gpu(has_float64=False):
        found = steps(case().train(), DEVICE)
    assert_close(found, wanted, rtol=1e-3, atol=1e-5, check_dtype=False)
