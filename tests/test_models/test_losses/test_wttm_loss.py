"""WTTMLoss and its maths: slow numbers, the range of the weight, TTM, mistakes."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.losses import WTTMLoss
from cakd_mm.models.losses.functional.wttm import power_sum


def build(**config) -> WTTMLoss:
    return MODELS.build(dict(type='WTTMLoss', **config))


@pytest.fixture
def logits():
    draw = torch.Generator().manual_seed(0)
    return (3 * torch.randn(2, 6, 5, generator=draw)).double().unbind()


def slow(student: list[float], teacher: list[float], gamma: float):
    """The sum of the powers and the divergence of a row, by plain powers."""
    p, q = ([math.exp(z) for z in row] for row in (teacher, student))
    p, q = ([x / sum(row) for x in row] for row in (p, q))
    powers = [x**gamma for x in p]
    total = sum(powers)
    kl = sum(
        x / total * math.log(x / total / b) for x, b in zip(powers, q, strict=True)
    )
    return total, kl


@pytest.mark.parametrize('tau', [0.5, 1.0, 5.0, 10.0])
def test_against_the_slow_reference(logits, tau):
    rows = zip(*(x.tolist() for x in logits), strict=True)
    sums, kls = zip(*(slow(*row, 1 / tau) for row in rows), strict=True)
    assert power_sum(logits[1], tau).tolist() == pytest.approx(sums)
    loss = build(tau=tau, loss_weight=0.3)
    want = sum(a * b for a, b in zip(sums, kls, strict=True)) / 6
    assert loss(*logits).item() == pytest.approx(0.3 * want)
    assert loss.terms['softened_kl'].item() == pytest.approx(sum(kls) / 6)
    assert loss.terms['power_sum'].item() == pytest.approx(sum(sums) / 6)
    plain = build(tau=tau, loss_weight=0.3, weighted=False)
    assert plain(*logits).item() == pytest.approx(0.3 * sum(kls) / 6)
    assert_close(plain.terms, loss.terms)


def test_the_gradient_is_a_difference_of_probabilities_by_weight(logits):
    leaf = logits[0].clone().requires_grad_()
    build(tau=4.0)(leaf, logits[1]).backward()
    weight = (logits[1].softmax(1) ** 0.25).sum(1, keepdim=True)
    want = weight * (logits[0].softmax(1) - (logits[1] / 4).softmax(1)) / 6
    assert_close(leaf.grad, want)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    row=st.lists(st.floats(-50, 50), min_size=1, max_size=9),
    tau=st.floats(1, 1e6),
)
def test_the_weight_is_from_one_to_its_largest(row, tau):
    found = power_sum(torch.tensor([row]).double(), tau).item()
    assert 1 - 1e-9 <= found <= len(row) ** (1 - 1 / tau) * (1 + 1e-9)


def test_the_weight_of_teachers_that_are_sure_or_not():
    scores = torch.tensor([[1e12, 0.0, 0.0, 0.0], [7.0] * 4, [0.0, 0.0, -1e12, -1e12]])
    found = power_sum(scores.double(), 2.0)
    assert_close(found, torch.tensor([1.0, 2.0, math.sqrt(2)]).double())
    assert not power_sum(scores.requires_grad_(), 2.0).requires_grad


@pytest.mark.parametrize('weighted', [True, False])
def test_at_one_it_is_kd(logits, weighted):
    """The weight is then the sum of the probabilities, which is 1."""
    kd = MODELS.build(dict(type='KDLoss', tau=1.0))
    assert_close(build(tau=1.0, weighted=weighted)(*logits), kd(*logits))


def test_the_temperature_is_the_teachers_alone(logits):
    student, teacher = logits
    kd = MODELS.build(dict(type='KDLoss', tau=1.0))
    found = build(tau=5.0, weighted=False)(student, teacher)
    assert_close(found, kd(student, teacher / 5))


def test_the_defaults():
    loss = build()
    assert (loss.tau, loss.weighted, loss.loss_weight) == (5.0, True, 1.0)


@pytest.mark.parametrize('wrong', [1, 'yes', None])
def test_what_is_no_bool_is_refused(wrong):
    match = rf'weighted must be True \(WTTM\) or False \(TTM\), got {wrong!r}.*WTTMLoss'
    with pytest.raises(TypeError, match=match):
        build(weighted=wrong)


@pytest.mark.parametrize(('wrong', 'error'), [(0, ValueError), ('4', TypeError)])
def test_a_wrong_temperature_of_the_sum(wrong, error):
    with pytest.raises(error, match='tau must be'):
        power_sum(torch.ones(1, 2), wrong)
