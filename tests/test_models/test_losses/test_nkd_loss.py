"""NKDLoss and its maths: stored and slow numbers, extreme logits, mistakes."""

import goldens
import pytest
import torch
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.losses import NKDLoss
from cakd_mm.models.losses.functional.nkd import (
    log_softmax,
    normalized_entropy,
    normalized_kd,
)

BOTH = pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
FLOAT_MAX = torch.finfo(torch.float32).max
ROWS, CLASSES = 6, 5
LABELS = torch.tensor([4, 0, 2, 2, 1, 3])


def build(**config) -> NKDLoss:
    return MODELS.build(dict(type='NKDLoss', **config))


@pytest.fixture
def logits():
    draw = torch.Generator().manual_seed(0)
    return (3 * torch.randn(2, ROWS, CLASSES, generator=draw)).double().unbind()


def slow(preds_S, preds_T, labels, tau):
    """Both cross entropies, row by row, by autograd."""
    target, others = [], []
    for student, teacher, label in zip(preds_S, preds_T, labels, strict=True):
        target.append(-teacher.softmax(0)[label] * student.log_softmax(0)[label])
        rest = [i for i in range(len(student)) if i != label]
        q_T = (teacher[rest] / tau).softmax(0)
        others.append(-(q_T * (student[rest] / tau).log_softmax(0)).sum())
    return torch.stack(target), torch.stack(others)


# Stored and slow numbers


@BOTH
@pytest.mark.parametrize('entry', goldens.cases('NKD'))
def test_goldens(entry, dtype):
    golden, hparams = goldens.load(entry), entry['hparams']
    loss = build(tau=hparams['temp'], gamma=hparams['gamma'])
    leaf = golden['logits_student'].to(dtype).requires_grad_()
    value = loss(leaf, golden['logits_teacher'].to(dtype), golden['labels'])
    value.backward()
    goldens.assert_matches(entry, value.detach(), leaf.grad)
    rtol = 1e-9 if dtype == torch.float64 else 2e-5
    target, others = loss.terms['target'], loss.terms['others'] * hparams['gamma']
    assert_close(target.double(), golden['part_target'], rtol=rtol, atol=rtol)
    assert_close(others.double(), golden['part_nontarget'], rtol=rtol, atol=0)


@pytest.mark.parametrize('tau', [0.5, 1.0, 3.0])
def test_against_the_slow_reference(logits, tau):
    leaves = [logits[0].clone().requires_grad_() for _ in range(2)]
    weights = torch.arange(1.0, 2 * ROWS + 1).sqrt().view(2, ROWS).double()
    results = [
        torch.stack(list(function(leaf, logits[1], LABELS, tau)))
        for function, leaf in zip((normalized_kd, slow), leaves, strict=True)
    ]
    assert_close(*results)
    for result in results:
        (weights * result).sum().backward()
    assert_close(leaves[0].grad, leaves[1].grad)


@pytest.mark.parametrize('term', ['target', 'others'])
@pytest.mark.parametrize('classes', [1, 2, 7])
def test_gradcheck(classes, term):
    draw = torch.Generator().manual_seed(classes)
    student, teacher = torch.randn(2, 4, classes, generator=draw).double()
    labels = torch.arange(4) % classes
    assert torch.autograd.gradcheck(
        lambda s: getattr(normalized_kd(s, teacher, labels, 1.7), term),
        student.requires_grad_(),
    )


def test_one_class_has_no_others():
    student = torch.tensor([[3.0]], requires_grad=True)
    target, others = normalized_kd(student, torch.ones(1, 1), torch.tensor([0]))
    (target + others).sum().backward()
    assert target == 0
    assert others == 0
    assert student.grad == 0


def test_equal_nets_have_a_loss_but_no_gradient_among_the_others(logits):
    leaf = logits[0].requires_grad_()
    _, others = normalized_kd(leaf, logits[0].detach(), LABELS, 2.0)
    others.sum().backward()
    assert others.min() > 0.1
    assert not leaf.grad.any()


# Extreme logits


@pytest.mark.parametrize('tau', [0.01, 1.0, 100.0])
@pytest.mark.parametrize('label', [0, 1, 2])
@pytest.mark.parametrize('opposed', [False, True])
def test_rows_stay_finite_at_the_largest_numbers(opposed, label, tau):
    student = torch.tensor([[FLOAT_MAX, 0.0, -FLOAT_MAX]], requires_grad=True)
    teacher = (-student if opposed else student).detach()
    target, others = normalized_kd(student, teacher, torch.tensor([label]), tau)
    (target / 4 + others / 4).sum().backward()
    assert target.isfinite().all()
    assert others.isfinite().all()
    assert student.grad.isfinite().all()


@BOTH
def test_the_label_is_left_out_however_far_it_leads(logits, dtype):
    leaves, results = [], []
    for function, kind in ((normalized_kd, dtype), (slow, torch.float64)):
        student, teacher = (4 * preds.to(kind) - 3000 for preds in logits)
        student[range(ROWS), LABELS] += 5000
        teacher[range(ROWS), LABELS] += 9000
        leaves.append(student.requires_grad_())
        results.append(function(student, teacher, LABELS, 2.0)[1].double())
        results[-1].sum().backward()
    assert_close(*results, rtol=1e-3, atol=0)
    assert_close(*(leaf.grad.double() for leaf in leaves), rtol=0, atol=1e-3)


def test_log_softmax_keeps_its_precision_at_an_offset():
    scores = torch.tensor([[1e4, 1e4 - 1, 1e4 - 2]])
    want = torch.tensor([[2.0, 1.0, 0.0]]).log_softmax(-1)
    assert_close(log_softmax(scores, 1.0), want, rtol=1e-6, atol=0)
    assert_close(log_softmax(scores, 0.5), (want / 0.5).log_softmax(-1))


# Entropy


def test_entropy_by_hand():
    rows = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.25] * 4, [1.0, 0.0, 0.0, 0.0]])
    scores = 2 * rows.double().clamp(min=1e-300).log()
    want = torch.tensor([0.75, 1.0, 0.0]).double()
    assert_close(normalized_entropy(scores, 2.0), want)


def test_entropy_of_one_class_and_of_far_apart_ones():
    assert normalized_entropy(torch.ones(2, 1)).tolist() == [0, 0]
    assert normalized_entropy(torch.tensor([[FLOAT_MAX, -FLOAT_MAX]])) == 0
    assert not normalized_entropy(torch.ones(2, 3, requires_grad=True)).requires_grad


# The registered loss


def test_the_defaults_and_the_weights(logits):
    target, others = slow(*logits, LABELS, 1.0)
    assert_close(build()(*logits, LABELS), (target + 1.5 * others).mean())
    target, others = slow(*logits, LABELS, 3.0)
    loss = build(tau=3.0, gamma=0.5, loss_weight=0.2)
    assert_close(loss(*logits, LABELS), 0.2 * (target + 0.5 * 9 * others).mean())
