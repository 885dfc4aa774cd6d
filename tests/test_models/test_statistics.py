"""Running statistics against plain loops over all that they have seen."""

import math

import numpy as np
import pytest
import torch
from ranks import two_ranks
from torch.testing import assert_close

from cakd_mm.models.distillers import LossRatioBalancer
from cakd_mm.models.statistics import RunningMean, RunningNorm, share_rows


def batches_of(count, rows=6, channels=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, rows, channels, generator=draw, dtype=torch.float64)
    return drawn * torch.tensor([0.1, 1.0, 30.0]) + torch.arange(count).view(-1, 1, 1)


def slow_mean(values, momentum):
    mean = 0.0
    for number, value in enumerate(values, 1):
        weight = max(1 / number, momentum)
        mean = (1 - weight) * mean + weight * value
    return mean


# The mean


@pytest.mark.parametrize('momentum', [0.0, 0.3, 1.0])
def test_the_weight_of_a_new_batch(momentum):
    mean = RunningMean((), momentum).double()
    values = [3.0, -1.0, 10.0, 0.5, 2.25, 8.0]
    for seen in range(1, len(values) + 1):
        got = mean.update(torch.tensor(values[seen - 1]))
        assert got.item() == pytest.approx(slow_mean(values[:seen], momentum))
        assert mean.batches.item() == seen
    assert mean.value.item() == got.item()


def test_the_defaults():
    mean, norm = RunningMean(), RunningNorm(4)
    assert (mean.momentum, mean.value.shape) == (0.01, ())
    assert (norm.momentum, norm.eps) == (0.01, 1e-5)


def test_the_mean_keeps_nothing_of_the_graph_and_leaves_the_batch_alone():
    mean, batch = RunningMean((2,)), torch.tensor([1.0, 2.0], requires_grad=True)
    got = mean.update(batch * 1)
    assert not got.requires_grad
    mean.update(torch.zeros(2))
    assert batch.tolist() == [1.0, 2.0]


# The norm


@pytest.mark.parametrize('momentum', [0.0, 0.4, 1.0])
def test_statistics_are_those_of_a_weighted_mixture(momentum):
    norm, batches = RunningNorm(3, momentum).double(), batches_of(6)
    for batch in batches:
        norm.update(batch)
    rows = batches.numpy()
    mean = slow_mean(rows.mean(1), momentum)
    square = slow_mean(np.square(rows).mean(1), momentum)
    assert_close(norm.mean, torch.from_numpy(mean))
    assert_close(norm.var, torch.from_numpy(square - mean**2), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('momentum', [0.0, 0.01])
def test_a_mean_far_above_the_deviation_costs_no_digits(momentum):
    draw = torch.Generator().manual_seed(0)
    norm = RunningNorm(5, momentum)
    rows = 1000 + 0.1 * torch.randn(40, 64, 5, generator=draw)
    for batch in rows:
        norm.update(batch)
    exact = rows.double().flatten(0, 1)
    assert_close(norm.var.double(), exact.var(0, correction=0), rtol=2e-3, atol=0)
    assert_close(norm.mean.double(), exact.mean(0), rtol=1e-6, atol=0)
    scaled = norm(rows.flatten(0, 1))
    assert scaled.mean(0).abs().max() < 5e-3
    assert (scaled.std(0) - 1).abs().max() < 5e-3


@pytest.mark.parametrize(
    ('shape', 'dim'),
    [
        pytest.param((4, 3), -1, id='vectors'),
        pytest.param((4, 2, 3), -1, id='tokens'),
        pytest.param((4, 3, 2, 5), 1, id='map'),
    ],
)
def test_it_subtracts_the_mean_and_divides_by_the_deviation(shape, dim):
    norm, draw = RunningNorm(3, eps=0.25).double(), torch.Generator().manual_seed(1)
    norm.mean.copy_(torch.tensor([1.0, -2.0, 0.5]))
    norm.var.copy_(torch.tensor([4.0, 0.0, 0.09]))
    x = torch.randn(shape, generator=draw, dtype=torch.float64)
    normed = norm(x, dim)
    for index in np.ndindex(shape):
        channel = index[dim]
        least = 0.01 * (4.0 + 0.09) / 3  # of a channel that hardly varies
        deviation = (max([4.0, 0.0, 0.09][channel], least) + 0.25) ** 0.5
        mean = [1.0, -2.0, 0.5][channel]
        assert normed[index].item() == pytest.approx(
            (x[index].item() - mean) / deviation
        )


@pytest.mark.parametrize('momentum', [0.0, 0.4])
def test_the_root_mean_square_is_of_all_that_was_seen(momentum):
    norm, batches = RunningNorm(3, momentum).double(), batches_of(4)
    for batch in batches:
        norm.update(batch)
    squares = [
        sum(x * x for row in batch.tolist() for x in row) / batch.numel()
        for batch in batches
    ]
    assert norm.rms().item() == pytest.approx(math.sqrt(slow_mean(squares, momentum)))


def test_the_root_mean_square_of_zeros_can_be_divided_by():
    norm = RunningNorm(3)
    norm.update(torch.zeros(4, 3))
    assert norm.rms().item() == pytest.approx(1e-5)


def test_normalising_passes_a_gradient_and_updating_none():
    norm = RunningNorm(3).double()
    rows = batches_of(1)[0].requires_grad_()
    norm.update(rows)
    assert not norm.mean.requires_grad and not norm.var.requires_grad
    norm(rows).sum().backward()
    var = norm.var.clamp(min=0.01 * norm.var.mean().item())
    assert_close(rows.grad, (var + norm.eps).rsqrt().expand(6, 3))


def test_constant_channels_stay_finite():
    norm = RunningNorm(2)
    for _ in range(3):
        norm.update(torch.tensor([[5.0, 0.0]] * 4))
    assert norm.var.tolist() == [0.0, 0.0]
    assert norm(torch.tensor([[5.0, 0.0]])).tolist() == [[0.0, 0.0]]


# Was once so: the statistics of no rows are nan, and stay so for good.
def test_a_batch_without_rows_changes_nothing():
    norm, (first, second) = RunningNorm(3).double(), batches_of(2)
    norm.update(first)
    norm.update(first[:0])
    assert_close(norm.mean, first.mean(0))
    norm.update(second)
    rows = torch.cat((first, second))
    assert_close(norm.mean, rows.mean(0))
    assert_close(norm.var, rows.var(0, correction=0))


# Checkpoints, ranks, mistakes


# Rows of two ranks in each step; one of them may have none.
CUTS = [(5, 3), (8, 0), (0, 8), (1, 7)]


def test_ranks_with_unequal_rows_share_them_at_once_or_one_by_one(tmp_path):
    one, other = batches_of(4, rows=8), batches_of(4, rows=8, channels=3, seed=1)

    def work(rank):
        norms = [RunningNorm(3).double() for _ in range(3)]
        for first, second, cut in zip(one, other, CUTS, strict=True):
            first, second = first.split(cut)[rank], second.split(cut)[rank]
            norms[0].update(first)
            share_rows([(norms[1], first), (norms[2], second)])
            norms[1].update(first)
            norms[2].update(second)
        norms[2].update(norms[2].mean.expand(2, -1))  # which are its own rows again
        return [tensor for norm in norms for tensor in (norm.mean, norm.var)]

    alone = [RunningNorm(3).double() for _ in range(3)]
    for norm, batches in zip(alone, (one, one, other), strict=True):
        for rows in batches:
            norm.update(rows)
    alone[2].update(alone[2].mean.expand(2, -1))
    expected = [tensor for norm in alone for tensor in (norm.mean, norm.var)]
    first, second = two_ranks(work, tmp_path)
    assert_close(first, expected, rtol=1e-13, atol=1e-13)
    assert all(a.equal(b) for a, b in zip(first, second, strict=True))


def test_means_that_were_queued_are_taken_in_once():
    balancer = LossRatioBalancer(['a'], 'b')
    mean = RunningMean(momentum=0.0)
    balancer.queue = [(mean, torch.tensor(4.0))]
    for _ in range(2):
        balancer(dict(a=torch.tensor(1.0), b=torch.tensor(1.0)))
    assert (mean.value.item(), mean.batches.item()) == (4.0, 1.0)


@pytest.mark.parametrize('momentum', [-0.1, 1.5, float('nan')])
@pytest.mark.parametrize('kind', [RunningMean, RunningNorm])
def test_a_wrong_momentum_is_named(kind, momentum):
    with pytest.raises(ValueError, match=rf'`momentum` = {momentum}.*from 0'):
        kind(2, momentum=momentum) if kind is RunningNorm else kind((), momentum)
