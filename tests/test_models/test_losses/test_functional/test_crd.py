"""The maths of CRD against the original's numbers, plain loops and gradcheck.

Negatives are of other classes only, uniform, and the same wherever they are drawn.
"""

import math
import multiprocessing
import os
import resource
import time

import goldens
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from scipy.stats import chisquare
from sizes import Sizes
from torch.testing import assert_close

from cakd_mm.models.losses import CRDBankLoss
from cakd_mm.models.losses.functional import crd as contrastive
from cakd_mm.models.losses.functional.crd import (
    contrastive_rows,
    draw_others,
    log_sum_of_scores,
    merge_repeats,
    nce_rows,
    sort_by_class,
    uniform_bits,
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


def test_a_second_derivative_is_refused():
    anchors, bank, candidates = problem()
    z = torch.zeros((), dtype=torch.float64)
    leaf = anchors.requires_grad_()
    rows = contrastive_rows(leaf, bank, candidates, z, 0.07)
    with pytest.raises(RuntimeError, match='cannot be differentiated once more'):
        torch.autograd.grad(rows.square().sum(), leaf, create_graph=True)


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
    indices = torch.tensor([-1, 5, 3, 8, 3, -1])
    rows = torch.tensor([[9.0, 9], [bad, 1], [1, bad], [6, 6], [4, 4], [0, 0]])
    got, means, valid = merge_repeats(indices, rows)
    # The good row of the lowest sample, 3, stands for those left out.
    assert got.tolist() == [3, 3, 3, 8, 3, 3]
    assert means.tolist() == [[4, 4], [4, 4], [4, 4], [6, 6], [4, 4], [4, 4]]
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


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_merging_many_rows(dtype):
    """Each sample's rows against their mean, in memory for a few copies of them."""
    draw = torch.Generator().manual_seed(0)
    indices = torch.randint(-40, 400, (4000,), generator=draw)
    rows = torch.randn(4000, 16, generator=draw, dtype=dtype)
    rows[::9, 3] = math.nan
    with Sizes() as sizes:
        got, means, valid = merge_repeats(indices, rows)
    assert sizes.largest == rows.nbytes
    assert valid
    good = (indices >= 0) & rows.isfinite().all(1)
    lowest = int(indices[good].min())
    for place, index in enumerate(indices.tolist()):
        index = index if good[place] else lowest
        assert got[place] == index
        alike = rows[good & (indices == index)]
        assert_close(means[place], alike.mean(0))
        if len(alike) == 1:
            assert torch.equal(means[place], alike[0])


@pytest.mark.parametrize('momentum', [0.0, 0.9])
def test_the_bank_moves_towards_the_embeddings(momentum):
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    before = bank.clone()
    update_bank(bank, torch.tensor([2, 0]), torch.tensor([[0.0, 1.0]] * 2), momentum)
    for row in (2, 0):
        mixed = momentum * before[row] + (1 - momentum) * torch.tensor([0.0, 1.0])
        assert_close(bank[row], mixed / mixed.norm())
    assert torch.equal(bank[1], before[1])


# Negatives


def number(value):
    return torch.tensor(value, dtype=torch.int64)


def draw(labels, indices, count, seed=0, step=0):
    labels = torch.as_tensor(labels)
    blocks = sort_by_class(labels)
    indices = torch.as_tensor(indices)
    return draw_others(indices, labels, blocks, count, number(seed), number(step))


# Sorting


@pytest.mark.parametrize('labels', [[2, 0, 2, 1, 0], [5, 5, 1], [0], [3, 2, 1, 0]])
def test_blocks_hold_the_samples_of_each_class(labels):
    blocks = sort_by_class(torch.tensor(labels))
    assert blocks.order.dtype == torch.int32
    assert blocks.starts.tolist()[0] == 0
    assert len(blocks.starts) == max(labels) + 2
    for label in range(max(labels) + 1):
        start, stop = blocks.starts[label : label + 2].tolist()
        expected = [i for i, own in enumerate(labels) if own == label]
        assert blocks.order[start:stop].tolist() == expected


# The generator


def split_mix(state, count):
    """SplitMix64 in plain Python integers."""
    mask, outputs = 2**64 - 1, []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        bits = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & mask
        outputs.append(bits ^ (bits >> 31))
    return outputs


def test_the_reference_is_split_mix():
    # The first outputs of the published generator for the seed 0.
    assert split_mix(0, 2) == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


@pytest.mark.parametrize('seed', [0, 1, 2**31, 2**62 + 12345])
@pytest.mark.parametrize('step', [0, 7, 10**9])
def test_bits_are_those_of_a_generator_started_from_seed_step_and_index(seed, step):
    got = uniform_bits(torch.tensor([0, 3, 1_281_166]), 5, number(seed), number(step))
    mask = 2**64 - 1
    for row, index in zip(got.tolist(), (0, 3, 1_281_166), strict=True):
        key = split_mix(seed, 1)[0]
        key = split_mix((key + step) & mask, 1)[0]
        key = split_mix((key + index) & mask, 1)[0]
        assert row == [bits & (2**63 - 1) for bits in split_mix(key, 5)]


# Draws


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.integers(0, 6), min_size=2, max_size=30).filter(
        lambda labels: len(set(labels)) > 1
    ),
    st.integers(0, 2**40),
)
def test_never_of_the_own_class_and_every_other_sample_is_reached(labels, seed):
    drawn = draw(labels, range(len(labels)), 600, seed)
    assert drawn.dtype == torch.int64
    assert drawn.shape == (len(labels), 600)
    for own, row in zip(labels, drawn.tolist(), strict=True):
        assert set(row) == {i for i, other in enumerate(labels) if other != own}


@pytest.mark.parametrize('own', [0, 1, 4])  # the first, a middle, the last class
def test_uniform_over_the_other_classes(own):
    labels = torch.tensor([0, 0, 1, 1, 1, 1, 2, 4, 4, 4]).repeat(5)
    labels = labels[torch.randperm(50, generator=torch.Generator().manual_seed(0))]
    sample = int((labels == own).nonzero()[0])
    drawn = draw(labels, [sample], 100_000, seed=5)
    counts = torch.bincount(drawn[0], minlength=50)
    assert counts[labels == own].sum() == 0
    assert chisquare(counts[labels != own].numpy()).pvalue > 0.01


def measure(send):
    """What a process takes to set an ImageNet up and to draw for a batch."""
    torch.set_num_threads(1)
    draw_labels = torch.Generator().manual_seed(0)
    labels = torch.randint(1000, (1_281_167,), generator=draw_labels).numpy()
    loss = CRDBankLoss(8, 8, feat_dim=8, negatives=16384)
    before, start = peak(), time.process_time()
    loss.set_dataset(labels)
    drawn = loss.draw(torch.arange(64))
    seconds, extra = time.process_time() - start, peak() - before
    kept = {name: buffer.nbytes for name, buffer in loss.named_buffers()}
    right = bool((labels[drawn] != labels[:64, None]).all())
    send.send((extra - kept.pop('bank_S') - kept.pop('bank_T'), kept, seconds, right))
    os._exit(0)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_of_imagenet_it_takes_few_megabytes_and_seconds():
    """In a process of its own, whose peak of memory is its own."""
    context = multiprocessing.get_context('fork')
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(send,))
    process.start()
    assert receive.poll(120)
    extra, kept, seconds, right = receive.recv()
    process.join(60)
    assert right
    assert sum(kept.values()) < 11e6
    # Measured: 75e6. Pages that the fork shares with a long run of tests add to it.
    assert extra < 150e6
    assert seconds < 5  # measured: 0.7
