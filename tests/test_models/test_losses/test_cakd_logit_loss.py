"""CAKDLogitLoss as a config builds it: labels, weights, reduction, mistakes."""

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


# Labels


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


# Weights and reduction


def test_the_defaults(logits):
    want = expected(logits, one_hot() > 0, tau=4.0, alpha=1.0, beta=1.0, gamma=8.0)
    assert_close(build()(*logits, LABELS), want)
    want = expected(logits, MULTI > 0, tau=4.0, alpha=1.0, beta=1.0, gamma=8.0)
    assert_close(build(multi_label=True)(*logits, MULTI), want)


# Mistakes


def test_unknown_settings_are_named():
    with pytest.raises(ValueError, match=r"soft_labels.*'argmax'.*got 'mean'"):
        build(soft_labels='mean')
    with pytest.raises(TypeError, match='reduction'):
        build(reduction='sum')
