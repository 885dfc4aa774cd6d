"""The maths of CRD against the original's numbers, plain loops and gradcheck."""

import math

import goldens
import pytest
import torch
from torch.testing import assert_close

from cakd_mm.models.losses.functional import crd as contrastive
from cakd_mm.models.losses.functional.crd import (
    candidate_scores,
    contrastive_rows,
    log_sum_of_scores,
    merge_repeats,
    nce_rows,
    unit,
    update_bank,
)


def problem(seed=0, dtype=torch.float64, batch=5, count=7, width=3, samples=11):
    draw = torch.Generator().manual_seed(seed)
    anchors = torch.randn(batch, width, generator=draw, dtype=dtype)
    bank = torch.randn(samples, width, generator=draw, dtype=dtype)
    candidates = torch.randint(samples, (batch, 1 + count), generator=draw)
    return unit(anchors), unit(bank), candidates


def slow_rows(anchors, bank, candidates, z, tau, eps=1e-7):
    """The loss of each row, written out in plain numbers."""
    count, rows = candidates.shape[1] - 1, []
    noise = count / len(bank)
    for anchor, chosen in zip(anchors.tolist(), candidates.tolist(), strict=True):
        total = 0.0
        for place, index in enumerate(chosen):
            dot = sum(a * b for a, b in zip(anchor, bank[index].tolist(), strict=True))
            q = math.exp(dot / tau) / z
            total -= math.log((q if place == 0 else noise) / (q + noise + eps))
        rows.append(total)
    return torch.tensor(rows, dtype=torch.float64)


# The original's numbers


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('entry', goldens.cases('CRD-ContrastLoss', group='features'))
def test_noise_contrast_matches_the_original(entry, dtype):
    golden = goldens.load(entry)
    out = golden['out'].to(dtype).requires_grad_()
    loss = nce_rows(out.log(), entry['hparams']['n_data'], entry['hparams']['eps'])
    (grad,) = torch.autograd.grad(loss.mean(), out)
    tolerance = entry['tolerance'][str(dtype).removeprefix('torch.')]
    assert_close(
        loss.mean().double(), golden['loss'], rtol=tolerance['loss_rtol'], atol=0
    )
    expected = golden['grad_out'].double()
    atol = tolerance['grad_rtol_of_max'] * expected.abs().max().item()
    assert_close(grad.double(), expected, rtol=0, atol=atol)


# Slow references


@pytest.mark.parametrize('most', [2**26, 23, 1])
@pytest.mark.parametrize('tau', [0.07, 1.0])
def test_rows_are_those_of_plain_loops(tau, most, monkeypatch):
    monkeypatch.setattr(contrastive, 'MOST_SCORES', most)  # 5, 2 and 1 row a part
    anchors, bank, candidates = problem()
    z = torch.tensor(3.7, dtype=torch.float64)
    got = contrastive_rows(anchors, bank, candidates, z.log(), tau)
    assert got.shape == (5,)
    assert_close(got, slow_rows(anchors, bank, candidates, z.item(), tau))
    anchors.requires_grad_()
    got = contrastive_rows(anchors, bank, candidates, z.log(), tau)
    assert_close(got, slow_rows(anchors, bank, candidates, z.item(), tau))


@pytest.mark.parametrize('most', [2**26, 23, 1])
def test_the_sum_of_scores_is_that_of_plain_loops(most, monkeypatch):
    monkeypatch.setattr(contrastive, 'MOST_SCORES', most)
    anchors, bank, candidates = problem()
    dots = [anchors[b] @ bank[i] for b in range(5) for i in candidates[b]]
    expected = math.log(sum(math.exp(dot / 0.07) for dot in dots))
    got = log_sum_of_scores(anchors.requires_grad_(), bank, candidates, 0.07)
    assert got.item() == pytest.approx(expected)
    assert not got.requires_grad


@pytest.mark.parametrize('most', [2**26, 23, 1])
def test_gradcheck(most, monkeypatch):
    monkeypatch.setattr(contrastive, 'MOST_SCORES', most)
    anchors, bank, candidates = problem()
    z = torch.tensor(1.3, dtype=torch.float64)

    def rows(anchors):
        return contrastive_rows(anchors, bank, candidates, z, 0.3)

    assert torch.autograd.gradcheck(rows, anchors.requires_grad_())


def test_gradcheck_of_the_parts():
    anchors, bank, candidates = problem()
    raw = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit, raw)
    assert torch.autograd.gradcheck(
        lambda x: nce_rows(candidate_scores(x, bank, candidates, 0.3), 11),
        anchors.requires_grad_(),
    )


def test_the_bank_may_change_before_the_backward():
    anchors, bank, candidates = problem()
    z = torch.tensor(0.5, dtype=torch.float64)
    grads = []
    for spoil in (False, True):
        leaf = anchors.clone().requires_grad_()
        loss = contrastive_rows(leaf, bank, candidates, z, 0.07).sum()
        if spoil:
            bank.fill_(9.0)
        loss.backward()
        grads.append(leaf.grad)
    assert grads[0].abs().max() > 0
    assert torch.equal(*grads)


def test_only_anchors_get_a_gradient():
    anchors, bank, candidates = problem()
    bank.requires_grad_()
    z = torch.zeros((), dtype=torch.float64, requires_grad=True)
    rows = contrastive_rows(anchors.requires_grad_(), bank, candidates, z, 0.07)
    rows.sum().backward()
    assert bank.grad is None
    assert z.grad is None


def test_a_second_derivative_is_refused():
    anchors, bank, candidates = problem()
    z = torch.zeros((), dtype=torch.float64)
    leaf = anchors.requires_grad_()
    rows = contrastive_rows(leaf, bank, candidates, z, 0.07)
    (grad,) = torch.autograd.grad(rows.square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


def test_no_rows_give_no_loss_and_a_gradient():
    _, bank, _ = problem()
    leaf = torch.zeros(0, 3, dtype=torch.float64, requires_grad=True)
    candidates = torch.zeros(0, 8, dtype=torch.int64)
    z = torch.zeros((), dtype=torch.float64)
    rows = contrastive_rows(leaf, bank, candidates, z, 0.07)
    rows.sum().backward()
    assert rows.shape == (0,)
    assert leaf.grad.shape == (0, 3)
    assert log_sum_of_scores(leaf, bank, candidates, 0.07) == -math.inf


@pytest.mark.parametrize('tau', [0.07, 0.005, 1e-4])
def test_a_low_temperature_overflows_nowhere(tau):
    anchors, bank, candidates = problem(dtype=torch.float32)
    total = log_sum_of_scores(anchors, bank, candidates, tau)
    log_z = total - math.log(candidates.numel()) + math.log(11)
    leaf = anchors.requires_grad_()
    rows = contrastive_rows(leaf, bank, candidates, log_z, tau)
    rows.sum().backward()
    assert rows.isfinite().all()
    assert leaf.grad.isfinite().all()
    exact = contrastive_rows(
        anchors.detach().double(), bank.double(), candidates, log_z.double(), tau
    )
    assert_close(rows.double(), exact, rtol=1e-4, atol=1e-6 / tau)


# Lengths


def test_unit_rows():
    rows = torch.tensor([[3.0, 4.0], [0.0, -2.0], [0.0, 0.0]], requires_grad=True)
    got = unit(rows)
    assert got.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, -1], [0, 0]]
    got.sum().backward()
    assert rows.grad[2].tolist() == [1.0, 1.0]
    assert rows.grad.isfinite().all()


@pytest.mark.parametrize('scale', [1e-30, 1e-13, 1e-11, 1e15])
def test_unit_of_tiny_and_huge_rows(scale):
    rows = (scale * torch.tensor([[3.0, -4.0]])).requires_grad_()
    got = unit(rows)
    (got * torch.tensor([1.0, 2.0])).sum().backward()
    assert got.isfinite().all()
    assert rows.grad.isfinite().all()
    assert got.norm().item() == pytest.approx(1.0 if scale > 1e-12 else 0, abs=1e-6)


# Banks


def test_merging_gives_repeats_their_mean():
    indices = torch.tensor([4, 2, 4, 7, 4])
    rows = torch.tensor([[1.0], [10.0], [2.0], [5.0], [6.0]])
    got, means, valid = merge_repeats(indices, rows)
    assert got.tolist() == indices.tolist()
    assert means.flatten().tolist() == [3.0, 10.0, 3.0, 5.0, 3.0]
    assert valid


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_merging_leaves_out_padding_and_what_is_not_finite(bad):
    indices = torch.tensor([-1, 5, 3, 3, 8, -1])
    rows = torch.tensor([[9.0, 9], [bad, 1], [1, bad], [4, 4], [6, 6], [0, 0]])
    got, means, valid = merge_repeats(indices, rows)
    # The first good row, of sample 3, stands for those left out.
    assert got.tolist() == [3, 3, 3, 3, 8, 3]
    assert means.tolist() == [[4, 4], [4, 4], [4, 4], [4, 4], [6, 6], [4, 4]]
    assert valid


def test_merging_without_a_good_row():
    indices = torch.tensor([-1, 5])
    got, means, valid = merge_repeats(indices, torch.tensor([[1.0], [math.nan]]))
    assert not valid
    assert (got >= 0).all()
    bank = torch.rand(6, 1)
    before = bank.clone()
    update_bank(bank, got, means, 0.5, valid)
    assert torch.equal(bank, before)


@pytest.mark.parametrize('momentum', [0.0, 0.25, 0.5, 0.9])
def test_the_bank_moves_towards_the_embeddings(momentum):
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    before = bank.clone()
    update_bank(bank, torch.tensor([2, 0]), torch.tensor([[0.0, 1.0]] * 2), momentum)
    for row in (2, 0):
        mixed = momentum * before[row] + (1 - momentum) * torch.tensor([0.0, 1.0])
        assert_close(bank[row], mixed / mixed.norm())
    assert torch.equal(bank[1], before[1])
