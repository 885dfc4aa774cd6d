"""CMKD's soft ranks on a GPU: the host's values, in few launches, without a wait."""

import pytest
import torch
from fake_gpu import DEVICE, NAME, fake_gpu

from cakd_mm.models import widened
from cakd_mm.models.losses import CMKDLoss

SETTINGS = pytest.mark.parametrize('regularization', [0.0, 2.0])
CLASSES = pytest.mark.parametrize('classes', [100, 300])  # one piece, and four


def prepared(classes, regularization, device):
    """Return a function that computes loss and gradient of data on the device."""
    draw = torch.Generator().manual_seed(classes)
    student, teacher = torch.randn(2, 8, classes, generator=draw)
    leaf = student.to(device).requires_grad_()
    teacher = teacher.to(device)
    loss = CMKDLoss(regularization=regularization)

    def step():
        value = loss(leaf, teacher)
        value.backward()
        return value.detach(), leaf.grad

    return step


@SETTINGS
@CLASSES
def test_no_wait_and_the_values_of_the_host(classes, regularization):
    wanted = prepared(classes, regularization, 'cpu')()
    with fake_gpu() as gpu:
        step = prepared(classes, regularization, DEVICE)
        with gpu.listening() as ledger:
            value, grad = step()
    assert ledger.waits == []
    # 197 and 247 were counted, and 258 when the host did a part of it.
    assert len(ledger.launches) <= (200 if classes == 100 else 250)
    assert torch.equal(value.host, wanted[0])
    assert torch.equal(grad.host, wanted[1])


@SETTINGS
@CLASSES
def test_a_gpu_without_float64(classes, regularization, monkeypatch):
    wanted = prepared(classes, regularization, 'cpu')()
    monkeypatch.setattr(widened, 'WITHOUT_FLOAT64', {NAME})
    with fake_gpu(has_float64=False):
        value, grad = prepared(classes, regularization, DEVICE)()
    torch.testing.assert_close(value.host, wanted[0], rtol=1e-5, atol=0)
    atol = 1e-3 * wanted[1].abs().max().item()
    torch.testing.assert_close(grad.host, wanted[1], rtol=0, atol=atol)
