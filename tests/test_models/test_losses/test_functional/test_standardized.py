"""Logit standardisation: slow numbers, what it does not see, rows without a spread."""

import math
import statistics

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.testing import assert_close

from cakd_mm.models.checks import LARGEST_INPUT
from cakd_mm.models.losses.functional.standardized import standardized

BOTH = pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=draw, dtype=torch.float64) + 5


def slow(row: list[float]) -> list[float]:
    """With the standard library's deviation of a sample, which divides by C - 1."""
    mean, deviation = statistics.fmean(row), statistics.stdev(row)
    return [(value - mean) / deviation for value in row]


@pytest.mark.parametrize('classes', [2, 3, 100])
def test_against_the_slow_reference(classes):
    scores = rows(4, classes)
    want = [slow(row) for row in scores.tolist()]
    assert_close(standardized(scores), torch.tensor(want).double(), rtol=1e-6, atol=0)


def test_by_hand():
    found = standardized(torch.tensor([[1.0, 2.0, 3.0], [8.0, -8.0, 0.0]]))
    assert_close(found, torch.tensor([[-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]]))


@pytest.mark.parametrize('classes', [2, 3, 7])
def test_gradcheck(classes):
    assert torch.autograd.gradcheck(standardized, rows(3, classes).requires_grad_())


def test_the_gradient_changes_neither_level_nor_size():
    scores = rows(5, 6).requires_grad_()
    weights = rows(5, 6, seed=1)
    (weights * standardized(scores)).sum().backward()
    assert scores.grad.abs().min() > 0
    assert_close(scores.grad.sum(1), torch.zeros(5).double())
    along = (scores.grad * scores.detach()).sum(1)
    assert along.abs().max() < 1e-6 * scores.grad.abs().sum()


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(
    row=st.lists(st.integers(-40, 40), min_size=2, max_size=8).filter(
        lambda row: len(set(row)) > 1
    ),
    factor=st.floats(1e-2, 1e4),
    offset=st.floats(-1e4, 1e4),
)
def test_neither_scale_nor_offset_is_seen(row, factor, offset):
    scores = torch.tensor([row]).double()
    found = standardized(factor * scores + offset)
    assert_close(found, standardized(scores), rtol=1e-4, atol=1e-4)
    assert_close(standardized(-scores), -standardized(scores))


@BOTH
@pytest.mark.parametrize('value', [0.0, 0.1, -1234.567, LARGEST_INPUT, 1 / 3])
@pytest.mark.parametrize('classes', [1, 2, 3, 5, 7, 100, 1000])
def test_equal_scores_become_zero_and_have_no_gradient(value, classes, dtype):
    """Also where the mean of the scores is rounded to another number than they are."""
    scores = torch.full((2, classes), value, dtype=dtype, requires_grad=True)
    found = standardized(scores)
    assert torch.equal(found, torch.zeros_like(found))
    (found * torch.arange(float(classes)).to(dtype)).sum().backward()
    assert torch.equal(scores.grad, torch.zeros_like(found))


@BOTH
@pytest.mark.parametrize('size', [1e-30, 1e-3, 1.0, 1e6, LARGEST_INPUT])
def test_any_size_gives_finite_numbers(size, dtype):
    scores = (size * rows(4, 5)).to(dtype)
    scores.requires_grad_()
    found = standardized(scores)
    (found * rows(4, 5, seed=2).to(dtype)).sum().backward()
    assert found.isfinite().all() and scores.grad.isfinite().all()
    assert found.abs().max() <= math.sqrt(5)
    if size >= 1:
        assert_close(
            found.detach().double(), standardized(rows(4, 5)), rtol=1e-4, atol=1e-5
        )


def test_scores_that_hardly_differ_keep_the_epsilon():
    """A deviation of 1e-7 is as large as what is added to it."""
    scores = 1e-7 * torch.tensor([[-1.0, 0.0, 1.0]]).double()
    assert_close(standardized(scores), torch.tensor([[-0.5, 0.0, 0.5]]).double())
