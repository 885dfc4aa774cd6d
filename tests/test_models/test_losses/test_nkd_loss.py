"""NKDLoss and its maths: stored and slow numbers, extreme logits, mistakes."""

import math

import goldens
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.losses import NKDLoss, functional
from cakd_mm.models.losses.functional.nkd import (
    log_softmax,
    normalized_entropy,
    normalized_kd,
)

BOTH = pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
FLOAT_MAX = torch.finfo(torch.float32).max
ROWS, CLASSES = 6, 5
LABELS = torch.tensor([4, 0, 2, 2, 1, 3])
ONE_HOT = torch.nn.functional.one_hot(LABELS, CLASSES)
SCORES = hnp.arrays(
    'float32', (2, ROWS, CLASSES), elements=st.floats(-1e4, 1e4, width=32)
)


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


def test_by_hand():
    """Teacher (1/2, 1/4, 1/4), student (1/3, 1/2, 1/6), label 0."""
    teacher = torch.tensor([[0.5, 0.25, 0.25]]).double().log()
    student = torch.tensor([[1 / 3, 1 / 2, 1 / 6]]).double().log()
    target, others = normalized_kd(student, teacher, torch.tensor([0]))
    assert target.item() == pytest.approx(math.log(3) / 2, rel=1e-6)
    want = -(math.log(3 / 4) + math.log(1 / 4)) / 2
    assert others.item() == pytest.approx(want, rel=1e-6)


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


def test_it_is_exported_with_the_other_maths():
    assert functional.normalized_kd is normalized_kd


# Extreme logits


@settings(deadline=None, max_examples=60)
@given(SCORES, st.sampled_from([0.5, 1.0, 4.0]), st.permutations(range(ROWS)))
def test_finite_and_without_order_whatever_the_logits(scores, tau, order):
    student, teacher = torch.from_numpy(scores).unbind()
    loss = build(tau=tau, loss_weight=300.0)
    leaf = student.clone().requires_grad_()
    value = loss(leaf, teacher, LABELS)
    value.backward()
    assert value.isfinite()
    assert value >= 0
    assert leaf.grad.isfinite().all()
    assert_close(loss(student[order], teacher[order], LABELS[order]), value)


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


def test_a_nan_shows(logits):
    logits[0][0, 0] = math.nan
    assert build()(*logits, LABELS).isnan()


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


def test_the_terms(logits):
    loss = build(tau=2.0, gamma=5.0, loss_weight=0.3)
    assert loss.terms == {}
    value = loss(logits[0].requires_grad_(), logits[1], LABELS)
    terms = loss.terms
    assert terms.keys() == {'target', 'others'}
    assert not any(term.requires_grad or term.dim() for term in terms.values())
    assert_close(value.detach(), 0.3 * (terms['target'] + 5 * terms['others']))


@pytest.mark.parametrize('dtype', [torch.float32, torch.int64, torch.bool])
def test_rows_of_label_scores_count_as_their_argmax(logits, dtype):
    rows = ONE_HOT.to(dtype)
    if dtype.is_floating_point:
        rows = 0.7 * rows + 0.3 * rows.roll(1, 0)
    assert_close(build()(*logits, rows), build()(*logits, LABELS), rtol=0, atol=0)


def test_the_gradient_goes_to_the_student_alone(logits):
    student, teacher = (preds.requires_grad_() for preds in logits)
    loss = build(tau=2.0, gamma=0.7, loss_weight=0.5)
    loss(student, teacher, LABELS).backward()
    assert teacher.grad is None
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, LABELS), student)


def test_the_loss_is_a_mean(logits):
    value = build()(*logits, LABELS)
    twice = (preds.repeat(2, 1) for preds in logits)
    assert_close(build()(*twice, LABELS.repeat(2)), value)
    student, teacher = (preds[:0].requires_grad_() for preds in logits)
    empty = build()(student, teacher, LABELS[:0])
    empty.backward()
    assert empty == 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(logits, dtype):
    student, teacher = (preds.to(dtype).requires_grad_() for preds in logits)
    value = build()(student, teacher, LABELS)
    wide = build()(student.float(), teacher.float(), LABELS)
    assert_close(value, wide, rtol=0, atol=0)
    value.backward()
    assert student.grad.dtype == dtype


def test_autocast_changes_nothing(logits):
    student, teacher = (preds.bfloat16() for preds in logits)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = build()(student, teacher, LABELS)
    assert_close(value, build()(student, teacher, LABELS), rtol=0, atol=0)


def test_nothing_is_read_back_from_a_device():
    preds_S, preds_T = torch.empty(2, ROWS, CLASSES, device='meta').unbind()
    leaf = preds_S.requires_grad_()
    build()(leaf, preds_T, torch.empty(ROWS, dtype=int, device='meta')).backward()
    assert leaf.grad.shape == (ROWS, CLASSES)


# Mistakes


@pytest.mark.parametrize('value', [-1.0, math.inf, math.nan, '4', True, None])
@pytest.mark.parametrize('key', ['tau', 'gamma', 'loss_weight'])
def test_a_wrong_number_is_named(key, value):
    message = rf'{key} must be .*, got {value!r}: set {key} .* NKDLoss'
    with pytest.raises(ValueError, match=message):
        build(**{key: value})


def test_zero_is_a_weight_but_no_temperature():
    build(gamma=0, loss_weight=0)
    with pytest.raises(ValueError, match=r'tau must be a positive.*got 0'):
        build(tau=0)
    with pytest.raises(ValueError, match=r'tau must be positive.*got 0'):
        normalized_kd(torch.ones(1, 2), torch.ones(1, 2), torch.tensor([0]), 0.0)
    with pytest.raises(TypeError, match=r"tau must be a number, got '4'"):
        normalized_kd(torch.ones(1, 2), torch.ones(1, 2), torch.tensor([0]), '4')


@pytest.mark.parametrize(
    ('labels', 'error', 'message'),
    [
        (ONE_HOT[:, :4], ValueError, r'gt_labels.*\(6, 4\).*\(6, 5\).*num_classes'),
        (LABELS[:4], ValueError, r'gt_labels.*\(4,\).*one class index per sample'),
        (LABELS.float(), TypeError, r'integer class indices.*torch\.float32'),
        (LABELS + 1, ValueError, r'holds 5, .*5 classes'),
        (LABELS - 1, ValueError, r'holds -1, .*number labels from 0'),
        (ONE_HOT + ONE_HOT.roll(1, 1), ValueError, r'several classes.*CAKDLogitLoss'),
    ],
)
def test_wrong_labels_are_named(logits, labels, error, message):
    with pytest.raises(error, match=message):
        build()(*logits, labels)


def test_wrong_logits_are_named(logits):
    with pytest.raises(ValueError, match=r'preds_T \(6, 4\).*num_classes'):
        build()(logits[0], logits[1][:, :4], LABELS)
    with pytest.raises(TypeError, match=r'preds_T must be a float tensor.*int64'):
        build()(logits[0], logits[1].long(), LABELS)
