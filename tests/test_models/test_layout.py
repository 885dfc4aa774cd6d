"""Layouts against loops over every element."""

import itertools

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from cakd_mm.models.layout import (
    GRANULARITIES,
    channel_dim,
    strongest,
    to_row_mask,
    to_rows,
    to_scored,
)

N, C, H, W, L = 2, 3, 4, 5, 6


def numbered(*shape):
    """Every element has a value of its own."""
    size = torch.Size(shape).numel()
    return torch.arange(float(size), dtype=torch.float64).view(shape).sqrt()


MAP, VECTOR, TOKENS = numbered(N, C, H, W), numbered(N, C), numbered(N, L, C)
POSITIONS = list(itertools.product(range(H), range(W)))


def average(sample, channel):
    return sum(MAP[sample, channel, y, x].item() for y, x in POSITIONS) / (H * W)


def slow_rows():
    """Expected rows of every granularity, element by element."""
    samples, channels = range(N), range(C)
    return {
        'vector': [[VECTOR[n, c].item() for c in channels] for n in samples],
        'tokens': [
            [TOKENS[n, token, c].item() for c in channels]
            for n in samples
            for token in range(L)
        ],
        'averaged': [[average(n, c) for c in channels] for n in samples],
        'channel': [
            [MAP[n, c, y, x].item() for c in channels]
            for n in samples
            for y, x in POSITIONS
        ],
        'spatial': [
            [MAP[n, c, y, x].item() for y, x in POSITIONS]
            for n in samples
            for c in channels
        ],
        'flat': [
            [MAP[n, c, y, x].item() for c in channels for y, x in POSITIONS]
            for n in samples
        ],
    }


CASES = [
    pytest.param(VECTOR, 'pooled', 'vector', id='pooled-vector'),
    pytest.param(TOKENS, 'pooled', 'tokens', id='pooled-tokens'),
    pytest.param(MAP, 'pooled', 'averaged', id='pooled-map'),
    pytest.param(MAP, 'channel', 'channel', id='channel'),
    pytest.param(MAP, 'spatial', 'spatial', id='spatial'),
    pytest.param(MAP, 'flat', 'flat', id='flat'),
]


@pytest.mark.parametrize('memory', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(('feature', 'granularity', 'rows'), CASES)
def test_every_row(feature, granularity, rows, memory):
    if feature.dim() == 4:
        feature = feature.contiguous(memory_format=memory)
    got, want = to_rows(feature, granularity), slow_rows()[rows]
    assert got.shape == (len(want), len(want[0]))
    for row, expected in zip(got.tolist(), want, strict=True):
        assert row == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('granularity', ['channel', 'spatial', 'flat'])
@pytest.mark.parametrize('feature', [VECTOR, TOKENS], ids=['vector', 'tokens'])
def test_only_maps_have_positions(feature, granularity):
    shape = ', '.join(map(str, feature.shape))
    with pytest.raises(
        ValueError,
        match=rf"granularity='{granularity}'.*shape \({shape}\).*'pooled'.*tap a map",
    ):
        to_rows(feature, granularity)


@pytest.mark.parametrize('granularity', GRANULARITIES)
@pytest.mark.parametrize('shape', [(3,), (2, 3, 4, 4, 4)], ids=str)
def test_no_rows_of_other_shapes(shape, granularity):
    with pytest.raises(ValueError, match=rf"granularity='{granularity}'.*shape"):
        to_rows(torch.zeros(shape), granularity)


def test_where_the_channels_are():
    for feature in (VECTOR, TOKENS, MAP):
        assert feature.shape[channel_dim(feature)] == C


# Scores and masks


def test_what_a_scorer_sees():
    assert to_scored(VECTOR, 'pooled').tolist() == VECTOR.tolist()
    for granularity in ('spatial', 'flat'):
        scored = to_scored(MAP, granularity)
        assert scored.tolist() == slow_rows()[granularity]
    tokens, positions = to_scored(TOKENS, 'pooled'), to_scored(MAP, 'channel')
    assert (tokens.shape, positions.shape) == ((N, C, L), (N, C, H * W))
    for n, c in itertools.product(range(N), range(C)):
        assert tokens[n, c].tolist() == [TOKENS[n, i, c].item() for i in range(L)]
        assert positions[n, c].tolist() == [
            MAP[n, c, y, x].item() for y, x in POSITIONS
        ]
    averaged = to_scored(MAP, 'pooled')
    assert averaged.flatten().tolist() == pytest.approx(
        [average(n, c) for n in range(N) for c in range(C)]
    )


@pytest.mark.parametrize(('feature', 'granularity', 'rows'), CASES)
def test_a_samples_mask_goes_to_its_own_rows(feature, granularity, rows):
    """The rows of sample n are those whose elements are found in it."""
    laid_out = to_rows(feature, granularity)
    if granularity in ('spatial', 'flat'):
        mask = (
            torch.rand(laid_out.shape, generator=torch.Generator().manual_seed(0)) < 0.5
        )
        assert to_row_mask(mask, laid_out) is mask
        return
    mask = torch.tensor([[True, False, True], [False, True, False]])
    marked = to_row_mask(mask, laid_out)
    per_sample = len(laid_out) // N
    for row in range(len(laid_out)):
        assert marked[row].tolist() == mask[row // per_sample].tolist()
    owner = torch.arange(float(N)).view(N, *[1] * (feature.dim() - 1))
    owners = to_rows(owner.expand(feature.shape), granularity)
    assert owners[marked].unique(return_counts=True)[1].tolist() == [
        2 * per_sample,
        per_sample,
    ]


def test_no_samples_have_no_mask():
    rows = to_rows(torch.zeros(0, 3, 2, 2), 'channel')
    assert to_row_mask(torch.zeros(0, 3, dtype=torch.bool), rows).shape == (0, 3)


@st.composite
def scored(draw):
    rows, elements = draw(st.integers(1, 4)), draw(st.integers(2, 9))
    values = hnp.arrays('f8', (rows, elements), elements=st.floats(-9, 9), unique=True)
    return torch.from_numpy(draw(values)), draw(st.integers(1, elements - 1))


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(scored())
def test_the_strongest_are_the_highest_of_each_row(problem):
    scores, count = problem
    mask = strongest(scores, count)
    assert mask.dtype == torch.bool
    for row, marks in zip(scores.tolist(), mask.tolist(), strict=True):
        best = sorted(range(len(row)), key=lambda i: -row[i])[:count]
        assert [i for i, mark in enumerate(marks) if mark] == sorted(best)


def test_ties_leave_the_number_right():
    mask = strongest(torch.zeros(3, 8), 3)
    assert mask.sum(1).tolist() == [3, 3, 3]
