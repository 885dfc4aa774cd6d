"""Clusters of the label and its likeliest neighbours, against a slow loop."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from cakd_mm.models.losses.functional.label_clusters import (
    counts_by_mass,
    label_cluster,
)

INTS = st.integers(0, 2**31)


def case(seed, rows=5, classes=6):
    draw = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(rows, classes, generator=draw).double()
    return scores, torch.randint(classes, (rows,), generator=draw)


def slow_cluster(scores, label, count):
    """The label, then the others from the highest score down."""
    others = [c for c in range(len(scores)) if c != label]
    others.sort(key=lambda c: -scores[c].item())
    return {label, *others[: count - 1]}


@settings(max_examples=30, deadline=None)
@given(seed=INTS, count=st.integers(1, 6))
def test_clusters_by_count(seed, count):
    scores, labels = case(seed)
    mask = label_cluster(scores, labels, count)
    assert mask.dtype == torch.bool
    for row, label, marked in zip(scores, labels.tolist(), mask, strict=True):
        assert set(marked.nonzero().flatten().tolist()) == slow_cluster(
            row, label, count
        )


@settings(max_examples=30, deadline=None)
@given(seed=INTS, mass=st.floats(0.01, 0.99), tau=st.sampled_from([0.5, 1.0, 4.0]))
def test_clusters_by_mass(seed, mass, tau):
    scores, labels = case(seed)
    counts = counts_by_mass(scores, labels, mass, tau)
    mask = label_cluster(scores, labels, counts)
    for row, label, marked in zip(scores, labels.tolist(), mask, strict=True):
        shares = (row / tau).softmax(0)
        count = 1
        while count < 5 and shares[[*slow_cluster(row, label, count)]].sum() < mass:
            count += 1
        assert set(marked.nonzero().flatten().tolist()) == slow_cluster(
            row, label, count
        )


def test_the_first_of_equal_classes_is_taken():
    mask = label_cluster(torch.zeros(2, 4), torch.tensor([2, 0]), 2)
    assert mask.tolist() == [
        [True, False, True, False],
        [True, True, False, False],
    ]


def test_exactly_the_mass_is_enough():
    counts = counts_by_mass(torch.zeros(1, 4), torch.tensor([2]), 0.5, 1.0)
    assert counts.tolist() == [2]


@pytest.mark.parametrize('classes', [1, 2])
def test_one_class_stays_weak_if_there_are_two(classes):
    labels = torch.zeros(3, dtype=torch.int64)
    counts = counts_by_mass(torch.zeros(3, classes), labels, 0.99, 1.0)
    assert counts.tolist() == [1, 1, 1]


def test_far_apart_scores_have_finite_masses():
    scores = torch.tensor([[1e12, -1e12, 0.0, 1e12]])
    assert counts_by_mass(scores, torch.tensor([1]), 0.9, 1e-6).tolist() == [3]
    assert counts_by_mass(scores, torch.tensor([0]), 0.4, 1e-6).tolist() == [1]


def test_no_rows():
    none, labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    counts = counts_by_mass(none, labels, 0.5, 1.0)
    assert counts.shape == (0,)
    assert label_cluster(none, labels, counts).shape == (0, 4)
