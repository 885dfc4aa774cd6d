"""CAKDLogitLoss as a config builds it: labels, weights, reduction, mistakes."""

import inspect
import math

import goldens
import pytest
import torch
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.losses import CAKDLogitLoss
from cakd_mm.models.losses.functional import decoupled_kl

BOTH = pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
ROWS, CLASSES = 6, 5
LABELS = torch.tensor([4, 0, 2, 2, 1, 3])


def build(**settings) -> CAKDLogitLoss:
    return MODELS.build(dict(type='CAKDLogitLoss', **settings))


@pytest.fixture
def logits():
    draw = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, ROWS, CLASSES, generator=draw)
    return student.double(), teacher.double()


def expected(logits, mask, tau, alpha, beta, gamma):
    bcd, scd, wcd = decoupled_kl(*logits, mask, tau)
    return tau**2 * (alpha * bcd + beta * scd + gamma * wcd).mean()


def one_hot(labels=LABELS):
    return torch.nn.functional.one_hot(labels, CLASSES)


# Stored numbers


def check(entry, dtype, loss, labels):
    golden = goldens.load(entry)
    leaf = golden['logits_student'].to(dtype).requires_grad_()
    value = loss(leaf, golden['logits_teacher'].to(dtype), labels)
    value.backward()
    goldens.assert_matches(entry, value.detach(), leaf.grad)


@BOTH
@pytest.mark.parametrize('entry', goldens.cases('CAKD-logit'))
def test_goldens_of_one_label(entry, dtype):
    check(entry, dtype, build(**entry['hparams']), goldens.load(entry)['labels'])


@BOTH
@pytest.mark.parametrize('entry', goldens.cases('CAKD-multilabel'))
def test_goldens_of_several_labels(entry, dtype):
    loss = build(multi_label=True, **entry['hparams'])
    check(entry, dtype, loss, goldens.load(entry)['mask'])


@BOTH
@pytest.mark.parametrize('entry', goldens.cases('DKD'))
def test_goldens_of_dkd_also_where_dkd_fails(entry, dtype):
    hparams = entry['hparams']
    loss = build(tau=hparams['T'], alpha=hparams['alpha'], gamma=hparams['beta'])
    check(entry, dtype, loss, goldens.load(entry)['labels'])


def test_equals_mmrazors_dkd(logits):
    dkd = MODELS.build(
        dict(type='DKDLoss', tau=3.0, alpha=0.5, beta=2.0, reduction='batchmean')
    )
    got = build(tau=3.0, alpha=0.5, gamma=2.0)(*logits, LABELS)
    assert_close(got, dkd(*logits, LABELS))


# Labels


def test_the_label_is_the_strong_cluster(logits):
    got = build(tau=2.0, alpha=0.7, beta=5.0, gamma=3.0)(*logits, LABELS)
    assert_close(got, expected(logits, one_hot() > 0, 2.0, 0.7, 5.0, 3.0))


@pytest.mark.parametrize('dtype', [torch.int64, torch.int32, torch.uint8])
def test_class_indices_of_any_integer_type(logits, dtype):
    loss = build()
    assert_close(loss(*logits, LABELS.to(dtype)), loss(*logits, LABELS))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.int64])
def test_rows_of_label_scores_count_as_their_argmax(logits, dtype):
    """mmpretrain gives int64 rows for the batches that it does not mix."""
    rows = one_hot().to(dtype)
    if dtype.is_floating_point:
        rows = 0.7 * rows + 0.3 * rows.roll(1, 0)
    loss = build()
    assert_close(loss(*logits, rows), loss(*logits, LABELS))
    assert_close(loss(*logits, one_hot().bool()), loss(*logits, LABELS))


@pytest.mark.parametrize('dtype', [torch.float32, torch.int64, torch.bool])
def test_rows_that_mark_several_classes_are_not_cut_to_one(logits, dtype):
    rows = (one_hot() + one_hot().roll(1, 1)).to(dtype)
    with pytest.raises(ValueError, match=r'several classes.*multi_label=True'):
        build()(*logits, rows)
    assert build(multi_label=True)(*logits, rows) > 0


def test_rows_of_label_scores_can_be_refused(logits):
    loss = build(soft_labels='refuse')
    assert loss(*logits, LABELS) > 0
    with pytest.raises(ValueError, match=r"soft_labels='refuse'.*\(6, 5\).*'argmax'"):
        loss(*logits, one_hot().float())


MULTI = torch.tensor(
    [
        [1, 0, 1, 0, 0],
        [0, 1, 1, 1, 1],
        [0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1],
        [0, 0, 0, 1, 0],
        [1, 1, 0, 0, 0],
    ]
)


@pytest.mark.parametrize('dtype', [torch.int64, torch.bool, torch.float32, torch.int8])
def test_several_labels_none_and_all(logits, dtype):
    loss = build(tau=2.0, alpha=0.7, beta=5.0, gamma=3.0, multi_label=True)
    want = expected(logits, MULTI > 0, 2.0, 0.7, 5.0, 3.0)
    assert_close(loss(*logits, MULTI.to(dtype)), want)


@pytest.mark.parametrize('row', [torch.zeros(1, CLASSES), torch.ones(1, CLASSES)])
def test_no_label_or_every_label_leaves_plain_kd(logits, row):
    student, teacher = (preds[:1].requires_grad_() for preds in logits)
    loss = build(tau=2.0, alpha=9.0, beta=3.0, gamma=3.0, multi_label=True)
    p, q = (teacher.detach() / 2).softmax(1), (student / 2).log_softmax(1)
    want = 3.0 * 4 * (p * (p.log() - q)).sum()
    got = loss(student, teacher, row)
    assert_close(got, want)
    grads = [torch.autograd.grad(value, student)[0] for value in (got, want)]
    assert_close(*grads)


# Weights and reduction


@pytest.mark.parametrize('multi_label', [False, True])
def test_the_loss_is_a_mean_times_its_weight(logits, multi_label):
    labels = MULTI if multi_label else LABELS
    value = build(multi_label=multi_label)(*logits, labels)
    assert value.dim() == 0
    twice = [preds.repeat(2, 1) for preds in logits]
    doubled = torch.cat((labels, labels))
    assert_close(build(multi_label=multi_label)(*twice, doubled), value)
    weighted = build(multi_label=multi_label, loss_weight=0.3)
    assert_close(weighted(*logits, labels), 0.3 * value)


@pytest.mark.parametrize('multi_label', [False, True])
def test_no_samples_no_loss(logits, multi_label):
    labels = MULTI[:0] if multi_label else LABELS[:0]
    student, teacher = (preds[:0].requires_grad_() for preds in logits)
    value = build(multi_label=multi_label)(student, teacher, labels)
    value.backward()
    assert value == 0


@pytest.mark.parametrize('multi_label', [False, True])
@pytest.mark.parametrize('only', ['alpha', 'beta', 'gamma'])
def test_each_weight_belongs_to_its_term(logits, only, multi_label):
    weights = dict(alpha=0.0, beta=0.0, gamma=0.0) | {only: 2.0}
    mask = (MULTI if multi_label else one_hot()) > 0
    loss = build(tau=3.0, multi_label=multi_label, **weights)
    got = loss(*logits, MULTI if multi_label else LABELS)
    assert_close(got, expected(logits, mask, 3.0, **weights))


def test_the_defaults(logits):
    want = expected(logits, one_hot() > 0, tau=4.0, alpha=1.0, beta=1.0, gamma=8.0)
    assert_close(build()(*logits, LABELS), want)
    want = expected(logits, MULTI > 0, tau=4.0, alpha=1.0, beta=1.0, gamma=8.0)
    assert_close(build(multi_label=True)(*logits, MULTI), want)


@pytest.mark.parametrize('multi_label', [False, True])
def test_the_gradient_goes_to_the_student_alone(logits, multi_label):
    student, teacher = (preds.requires_grad_() for preds in logits)
    labels = MULTI if multi_label else LABELS
    loss = build(tau=2.0, multi_label=multi_label, loss_weight=0.5)
    loss(student, teacher, labels).backward()
    assert teacher.grad is None
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, labels), student)


@pytest.mark.parametrize('multi_label', [False, True])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(logits, dtype, multi_label):
    student, teacher = (preds.to(dtype).requires_grad_() for preds in logits)
    labels, loss = MULTI if multi_label else LABELS, build(multi_label=multi_label)
    value = loss(student, teacher, labels)
    assert_close(value, loss(student.float(), teacher.float(), labels), rtol=0, atol=0)
    value.backward()
    assert student.grad.dtype == dtype


@pytest.mark.parametrize('multi_label', [False, True])
@pytest.mark.parametrize('rows', [False, True])
def test_no_label_is_read_back_from_a_device(rows, multi_label):
    """Reading a number of a tensor without data raises."""
    preds_S, preds_T = torch.empty(2, ROWS, CLASSES, device='meta').unbind()
    labels = torch.empty(ROWS, dtype=torch.int64, device='meta')
    if rows or multi_label:
        labels = torch.empty(ROWS, CLASSES, device='meta')
    leaf = preds_S.requires_grad_()
    build(multi_label=multi_label)(leaf, preds_T, labels).backward()
    assert leaf.grad.shape == (ROWS, CLASSES)


def test_mmrazors_distiller_can_read_the_signature():
    parameters = inspect.signature(CAKDLogitLoss.forward).parameters
    assert list(parameters) == ['self', 'preds_S', 'preds_T', 'gt_labels']
    assert {p.kind for p in parameters.values()} == {
        inspect.Parameter.POSITIONAL_OR_KEYWORD
    }


# Mistakes


@pytest.mark.parametrize('value', [-1.0, math.inf, math.nan, 'adaptive', True, None])
@pytest.mark.parametrize('key', ['tau', 'alpha', 'beta', 'gamma', 'loss_weight'])
def test_a_wrong_number_is_named(key, value):
    with pytest.raises(
        ValueError, match=rf'{key} must be .*, got {value!r}: set {key}'
    ):
        build(**{key: value})


def test_a_temperature_of_zero_but_weights_of_zero():
    with pytest.raises(ValueError, match=r'tau must be a positive.*got 0\.0'):
        build(tau=0.0)
    build(alpha=0, beta=0, gamma=0, loss_weight=0)


def test_unknown_settings_are_named():
    with pytest.raises(ValueError, match=r"soft_labels.*'argmax'.*got 'mean'"):
        build(soft_labels='mean')
    with pytest.raises(TypeError, match='reduction'):
        build(reduction='sum')


@pytest.mark.parametrize(
    ('settings', 'labels', 'error', 'message'),
    [
        (
            dict(multi_label=True),
            LABELS,
            ValueError,
            r'multi_label=True.*\(6,\).*=False',
        ),
        (
            dict(multi_label=True),
            MULTI[:, :4],
            ValueError,
            r'multi_label.*\(6, 4\).*num',
        ),
        (
            dict(),
            MULTI[:, :4],
            ValueError,
            r'gt_labels.*\(6, 4\).*\(6, 5\).*num_classes',
        ),
        (
            dict(),
            LABELS[:4],
            ValueError,
            r'gt_labels.*\(4,\).*one class index per samp',
        ),
        (dict(), LABELS[:, None, None], ValueError, r'gt_labels.*\(6, 1, 1\)'),
        (dict(), LABELS.float(), TypeError, r'integer class indices.*torch\.float32'),
        (dict(), LABELS > 0, TypeError, r'integer class indices.*torch\.bool'),
        (dict(), LABELS + 96, ValueError, r'holds 100, .*5 classes.*num_classes'),
        (dict(), LABELS + 1, ValueError, r'holds 5, .*5 classes'),
        (dict(), LABELS - 1, ValueError, r'holds -1, .*number labels from 0'),
    ],
)
def test_wrong_labels_are_named(logits, settings, labels, error, message):
    with pytest.raises(error, match=message):
        build(**settings)(*logits, labels)


@pytest.mark.parametrize('multi_label', [False, True])
def test_heads_of_different_sizes_are_named(logits, multi_label):
    student, teacher = logits
    labels = MULTI if multi_label else LABELS
    with pytest.raises(
        ValueError, match=r'preds_T \(6, 4\).*num_classes.*teacher\.head'
    ):
        build(multi_label=multi_label)(student, teacher[:, :4], labels)
