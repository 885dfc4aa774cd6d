"""Negatives: of other classes only, uniform, the same wherever they are drawn."""

import multiprocessing
import os
import resource
import time

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from scipy.stats import chisquare, kstest

from cakd_mm.models.losses import CRDBankLoss
from cakd_mm.models.losses.functional.crd_negatives import (
    draw_others,
    sort_by_class,
    uniform_bits,
)


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


def test_bits_are_uniform_along_every_axis():
    top = 2.0**63
    within = uniform_bits(torch.tensor([4]), 20_000, number(1), number(2))
    across = uniform_bits(torch.arange(20_000), 1, number(1), number(2))
    steps = [uniform_bits(number([4]), 1, number(1), number(i)) for i in range(500)]
    seeds = [uniform_bits(number([4]), 1, number(i), number(2)) for i in range(500)]
    for bits in (within, across, torch.stack(steps), torch.stack(seeds)):
        assert kstest(bits.flatten().double().numpy() / top, 'uniform').pvalue > 0.01


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


@pytest.mark.parametrize('index', [0, 3, 9])  # of the first, a middle, the last class
def test_uniform_over_the_other_classes(index):
    labels = torch.tensor([0, 0, 1, 1, 1, 1, 2, 4, 4, 4]).repeat(5)
    labels = labels[torch.randperm(50, generator=torch.Generator().manual_seed(0))]
    own = int(labels.unique()[[0, 1, 3][[0, 3, 9].index(index)]])
    sample = int((labels == own).nonzero()[0])
    drawn = draw(labels, [sample], 100_000, seed=5)
    counts = torch.bincount(drawn[0], minlength=50)
    assert counts[labels == own].sum() == 0
    assert chisquare(counts[labels != own].numpy()).pvalue > 0.01


def test_a_sample_draws_the_same_wherever_it_is():
    labels = torch.arange(40) % 4
    whole = draw(labels, range(40), 30, seed=3, step=8)
    for indices in ([7], [31, 7, 0], [7, 7]):
        got = draw(labels, indices, 30, seed=3, step=8)
        assert torch.equal(got, whole[indices])
    # Fewer negatives are the first of more.
    assert torch.equal(draw(labels, [7], 10, 3, 8), whole[[7], :10])


def test_seed_step_and_sample_change_the_draws():
    labels = torch.arange(4000) % 2
    first = draw(labels, [0], 500, seed=3, step=8)
    others = [(2, 3, 8), (0, 4, 8), (0, 3, 9), (0, 8, 3)]
    for index, seed, step in others:
        other = draw(labels, [index], 500, seed, step)
        # Of 2000 samples each place agrees with a chance of 1 / 2000.
        assert (other == first).sum() < 5
    assert len(first.unique()) > 400


def test_no_samples_draw_nothing():
    assert draw([0, 1], torch.zeros(0, dtype=torch.int64), 3).shape == (0, 3)


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
    assert extra < 100e6
    assert seconds < 5  # measured: 0.7
