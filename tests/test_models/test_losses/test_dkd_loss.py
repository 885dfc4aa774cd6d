"""DecoupledKDLoss: stored numbers, terms, labels, extreme logits, mistakes."""

import goldens
import pytest
import torch
from mmrazor.registry import MODELS
from torch.testing import assert_close

from cakd_mm.models.losses import CAKDLogitLoss, DecoupledKDLoss
from cakd_mm.models.losses.functional import decoupled_kl

BOTH = pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
ROWS, CLASSES = 6, 5
LABELS = torch.tensor([4, 0, 2, 2, 1, 3])
ONE_HOT = torch.nn.functional.one_hot(LABELS, CLASSES)


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
    value = loss(*logits, LABELS)
    terms = loss.terms
    bcd, _, wcd = decoupled_kl(*logits, ONE_HOT > 0, 2.0)
    mass = (logits[1] / 2).softmax(1)[range(ROWS), LABELS].mean()
    want = dict(tckd=4 * bcd.mean(), nckd=4 * wcd.mean(), target_mass=mass)
    assert terms.keys() == want.keys()
    for name, term in terms.items():
        assert_close(term, want[name], check_dtype=False)
    assert_close(value, 0.3 * (0.7 * terms['tckd'] + 5 * terms['nckd']))
