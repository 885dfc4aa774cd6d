"""KDLoss and its maths: stored and slow numbers, MMRazor's own loss."""

import math

import goldens
import pytest
import torch
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.losses import KDLoss
from cakd_mm.models.losses.functional.kd import softened_kl

BOTH = pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)


def build(kind='KDLoss', **config) -> KDLoss:
    return MODELS.build(dict(type=kind, **config))


@pytest.fixture
def logits():
    draw = torch.Generator().manual_seed(0)
    return (3 * torch.randn(2, 6, 5, generator=draw)).double().unbind()


def slow(student: list[float], teacher: list[float], tau: float) -> float:
    p, q = ([math.exp(z / tau) for z in row] for row in (teacher, student))
    p, q = ([x / sum(row) for x in row] for row in (p, q))
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


@BOTH
@pytest.mark.parametrize('entry', goldens.cases('KD'))
def test_goldens(entry, dtype):
    golden = goldens.load(entry)
    leaf = golden['logits_student'].to(dtype).requires_grad_()
    teacher = golden['logits_teacher'].to(dtype).requires_grad_()
    value = build(tau=entry['hparams']['T'])(leaf, teacher)
    value.backward()
    assert teacher.grad is None
    goldens.assert_matches(entry, value.detach(), leaf.grad)


@pytest.mark.parametrize('tau', [0.5, 1.0, 4.0])
def test_against_the_slow_reference(logits, tau):
    rows = zip(*(x.tolist() for x in logits), strict=True)
    want = torch.tensor([slow(*row, tau) for row in rows]).double()
    assert_close(softened_kl(*logits, tau), want, rtol=1e-6, atol=1e-9)
    loss = build(tau=tau, loss_weight=0.3)
    mean = tau**2 * want.mean()
    assert_close(loss(*logits), 0.3 * mean, rtol=1e-6, atol=0)
    assert_close(loss.terms, dict(kl=mean), rtol=1e-6, atol=0)


def test_the_gradient_is_the_difference_of_the_probabilities(logits):
    leaf = logits[0].requires_grad_()
    build(tau=2.0)(leaf, logits[1]).backward()
    p, q = ((x.detach() / 2).softmax(1) for x in logits)
    assert_close(leaf.grad, 2 * (p - q) / 6)


@BOTH
@pytest.mark.parametrize('tau', [1.0, 4.0, 20.0])
def test_it_is_mmrazors(logits, tau, dtype):
    found = []
    for kind in ('KDLoss', 'KLDivergence'):
        leaf = logits[0].to(dtype).requires_grad_()
        value = build(kind, tau=tau, loss_weight=0.9)(leaf, logits[1].to(dtype))
        value.backward()
        found.append((value.detach(), leaf.grad))
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    assert_close(*found, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize('classes', [1, 2, 7])
def test_gradcheck(classes):
    draw = torch.Generator().manual_seed(classes)
    student, teacher = torch.randn(2, 4, classes, generator=draw).double()
    assert torch.autograd.gradcheck(
        lambda s: softened_kl(s, teacher, 1.7), student.requires_grad_()
    )


def test_a_small_divergence_is_not_lost_in_float32():
    teacher = torch.tensor([[2.0, 0.0, -1.0]])
    near = teacher + torch.tensor([[1e-2, 0.0, 0.0]])
    want = slow(near.double()[0].tolist(), teacher.double()[0].tolist(), 1.0)
    assert softened_kl(near, teacher).item() == pytest.approx(want, rel=1e-2)


def test_the_defaults():
    assert build().tau == 4.0 and build().loss_weight == 1.0
