"""DISTLogitLoss: stored and slow numbers, MMRazor's own loss, one image, none."""

import goldens
import pytest
import torch
from mmrazor.registry import MODELS
from torch.testing import assert_close

BOTH = pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)


def build(kind='DISTLogitLoss', **config):
    return MODELS.build(dict(type=kind, **config))


@pytest.fixture
def logits():
    draw = torch.Generator().manual_seed(0)
    return (3 * torch.randn(2, 6, 5, generator=draw)).double().unbind()


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack((one, other)))[0, 1].item()


@BOTH
@pytest.mark.parametrize('entry', goldens.cases('DIST'))
def test_goldens(entry, dtype):
    golden, hparams = goldens.load(entry), entry['hparams']
    loss = build(
        tau=hparams['tau'],
        inter_loss_weight=hparams['beta'],
        intra_loss_weight=hparams['gamma'],
    )
    leaf = golden['logits_student'].to(dtype).requires_grad_()
    value = loss(leaf, golden['logits_teacher'].to(dtype))
    value.backward()
    goldens.assert_matches(entry, value.detach(), leaf.grad)


@pytest.mark.parametrize('tau', [0.5, 4.0])
def test_against_the_slow_reference(logits, tau):
    p, q = ((x / tau).softmax(1) for x in logits)
    inter = sum(1 - correlation(p[i], q[i]) for i in range(6)) / 6
    intra = sum(1 - correlation(p[:, i], q[:, i]) for i in range(5)) / 5
    settings = dict(inter_loss_weight=0.5, intra_loss_weight=3.0, loss_weight=2.0)
    loss = build(tau=tau, **settings)
    want = 2.0 * tau**2 * (0.5 * inter + 3.0 * intra)
    # MMRazor has an epsilon of 1e-8 in the denominator, and torch has none.
    assert loss(*logits).item() == pytest.approx(want, rel=1e-4)
    assert loss.terms['inter'].item() == pytest.approx(inter, rel=1e-4)
    assert loss.terms['intra'].item() == pytest.approx(intra, rel=1e-4)


@pytest.mark.parametrize('settings', [{}, dict(tau=4.0, loss_weight=2.0)], ids=str)
def test_it_is_mmrazors(logits, settings):
    found = []
    for kind in ('DISTLogitLoss', 'DISTLoss'):
        leaf = logits[0].clone().requires_grad_()
        value = build(kind, **settings)(leaf, logits[1])
        value.backward()
        found.append((value.detach(), leaf.grad))
    assert_close(*found, rtol=1e-12, atol=1e-12)


def test_one_image_has_no_correlation_over_the_batch(logits):
    loss = build()
    leaf = logits[0][:1].requires_grad_()
    loss(leaf, logits[1][:1]).backward()
    assert loss.terms['intra'] == 1
    assert leaf.grad.isfinite().all() and leaf.grad.any()
