"""DecoupledKDLoss: stored numbers, terms, labels, extreme logits, mistakes."""

import math

import goldens
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.losses import CAKDLogitLoss, DecoupledKDLoss
from cakd_mm.models.losses.functional import decoupled_kl

BOTH = pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
ROWS, CLASSES = 6, 5
LABELS = torch.tensor([4, 0, 2, 2, 1, 3])
ONE_HOT = torch.nn.functional.one_hot(LABELS, CLASSES)
SCORES = hnp.arrays(
    'float32', (2, ROWS, CLASSES), elements=st.floats(-1e4, 1e4, width=32)
)


def build(**config) -> DecoupledKDLoss:
    return MODELS.build(dict(type='DecoupledKDLoss', **config))


@pytest.fixture
def logits():
    draw = torch.Generator().manual_seed(0)
    return (3 * torch.randn(2, ROWS, CLASSES, generator=draw)).double().unbind()


@BOTH
@pytest.mark.parametrize('entry', goldens.cases('DKD'))
def test_goldens_also_where_the_original_fails(entry, dtype):
    golden, hparams = goldens.load(entry), entry['hparams']
    loss = build(tau=hparams['T'], alpha=hparams['alpha'], beta=hparams['beta'])
    leaf = golden['logits_student'].to(dtype).requires_grad_()
    value = loss(leaf, golden['logits_teacher'].to(dtype), golden['labels'])
    value.backward()
    goldens.assert_matches(entry, value.detach(), leaf.grad)


def test_it_is_cakd_of_one_label(logits):
    cakd = CAKDLogitLoss(tau=3.0, alpha=0.7, gamma=2.5, loss_weight=0.3)
    loss = build(tau=3.0, alpha=0.7, beta=2.5, loss_weight=0.3)
    here, there = (logits[0].clone().requires_grad_() for _ in range(2))
    values = loss(here, logits[1], LABELS), cakd(there, logits[1], LABELS)
    torch.stack(values).sum().backward()
    assert_close(*values, rtol=0, atol=0)
    assert_close(here.grad, there.grad, rtol=0, atol=0)


def test_the_defaults(logits):
    bcd, _, wcd = decoupled_kl(*logits, ONE_HOT > 0, 4.0)
    assert_close(build()(*logits, LABELS), 16 * (bcd + 8 * wcd).mean())


def test_the_terms(logits):
    loss = build(tau=2.0, alpha=0.7, beta=5.0, loss_weight=0.3)
    assert loss.terms == {}
    student = logits[0].requires_grad_()
    value = loss(student, logits[1], LABELS)
    terms = loss.terms
    assert not any(term.requires_grad or term.dim() for term in terms.values())
    bcd, _, wcd = decoupled_kl(*logits, ONE_HOT > 0, 2.0)
    mass = (logits[1] / 2).softmax(1)[range(ROWS), LABELS].mean()
    want = dict(tckd=4 * bcd.mean(), nckd=4 * wcd.mean(), target_mass=mass)
    assert terms.keys() == want.keys()
    for name, term in terms.items():
        assert_close(term, want[name].detach(), check_dtype=False)
    assert_close(value.detach(), 0.3 * (0.7 * terms['tckd'] + 5 * terms['nckd']))


@pytest.mark.parametrize('dtype', [torch.float32, torch.int64, torch.bool])
def test_rows_of_label_scores_count_as_their_argmax(logits, dtype):
    rows = ONE_HOT.to(dtype)
    if dtype.is_floating_point:
        rows = 0.7 * rows + 0.3 * rows.roll(1, 0)
    assert_close(build()(*logits, rows), build()(*logits, LABELS), rtol=0, atol=0)


def test_the_gradient_goes_to_the_student_alone(logits):
    student, teacher = (preds.requires_grad_() for preds in logits)
    loss = build(tau=2.0, alpha=0.7, loss_weight=0.5)
    loss(student, teacher, LABELS).backward()
    assert teacher.grad is None
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, LABELS), student)


def test_equal_nets_have_no_loss(logits):
    leaf = logits[0].requires_grad_()
    value = build()(leaf, logits[0].detach(), LABELS)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert leaf.grad.abs().max() < 1e-12


def test_the_loss_is_a_mean_times_its_weight(logits):
    value = build()(*logits, LABELS)
    twice = (preds.repeat(2, 1) for preds in logits)
    assert_close(build()(*twice, LABELS.repeat(2)), value)
    assert_close(build(loss_weight=0.3)(*logits, LABELS), 0.3 * value)
    student, teacher = (preds[:0].requires_grad_() for preds in logits)
    empty = build()(student, teacher, LABELS[:0])
    empty.backward()
    assert empty == 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(logits, dtype):
    student, teacher = (preds.to(dtype).requires_grad_() for preds in logits)
    value = build()(student, teacher, LABELS)
    assert_close(value, build()(student.float(), teacher.float(), LABELS))
    assert value.dtype == torch.float32
    value.backward()
    assert student.grad.dtype == dtype


@settings(deadline=None, max_examples=60)
@given(SCORES, st.sampled_from([0.5, 1.0, 4.0]), st.permutations(range(ROWS)))
def test_finite_and_without_order_whatever_the_logits(scores, tau, order):
    student, teacher = torch.from_numpy(scores).unbind()
    loss = build(tau=tau, loss_weight=300.0)
    leaf = student.clone().requires_grad_()
    value = loss(leaf, teacher, LABELS)
    value.backward()
    assert value.isfinite()
    assert value >= -1e-3
    assert leaf.grad.isfinite().all()
    assert all(term.isfinite() for term in loss.terms.values())
    assert_close(loss(student[order], teacher[order], LABELS[order]), value)


def test_nothing_is_read_back_from_a_device():
    preds_S, preds_T = torch.empty(2, ROWS, CLASSES, device='meta').unbind()
    leaf = preds_S.requires_grad_()
    build()(leaf, preds_T, torch.empty(ROWS, dtype=int, device='meta')).backward()
    assert leaf.grad.shape == (ROWS, CLASSES)


@pytest.mark.parametrize('value', [-1.0, math.inf, math.nan, '4', True, None])
@pytest.mark.parametrize('key', ['tau', 'alpha', 'beta', 'loss_weight'])
def test_a_wrong_number_is_named(key, value):
    message = rf'{key} must be .*, got {value!r}: set {key} .* DecoupledKDLoss'
    with pytest.raises(ValueError, match=message):
        build(**{key: value})


def test_zero_is_a_weight_but_no_temperature():
    build(alpha=0, beta=0, loss_weight=0)
    with pytest.raises(ValueError, match=r'tau must be a positive.*got 0'):
        build(tau=0)
    with pytest.raises(TypeError, match='reduction'):
        build(reduction='mean')


@pytest.mark.parametrize(
    ('labels', 'error', 'message'),
    [
        (ONE_HOT[:, :4], ValueError, r'gt_labels.*\(6, 4\).*\(6, 5\).*num_classes'),
        (LABELS[:4], ValueError, r'gt_labels.*\(4,\).*one class index per sample'),
        (LABELS.float(), TypeError, r'integer class indices.*torch\.float32'),
        (LABELS + 1, ValueError, r'holds 5, .*5 classes'),
        (LABELS - 1, ValueError, r'holds -1, .*number labels from 0'),
        (
            ONE_HOT + ONE_HOT.roll(1, 1),
            ValueError,
            r"several classes.*set type='CAKDLogitLoss' and multi_label=True",
        ),
    ],
)
def test_wrong_labels_are_named(logits, labels, error, message):
    with pytest.raises(error, match=message):
        build()(*logits, labels)


def test_heads_of_different_sizes_are_named(logits):
    with pytest.raises(ValueError, match=r'preds_T \(6, 4\).*num_classes'):
        build()(logits[0], logits[1][:, :4], LABELS)
