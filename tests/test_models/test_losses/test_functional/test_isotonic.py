"""Isotonic regression against scipy's."""

import numpy as np
import pytest
import torch
from scipy import optimize
from torch.testing import assert_close

from cakd_mm.models.losses.functional import isotonic
from cakd_mm.models.losses.functional.isotonic import isotonic_regression

SLOPES = (-2.0, 0.0, 0.3, 2.0)  # from one block to as many as there are places


def scipys(rows):
    return torch.from_numpy(
        np.stack([optimize.isotonic_regression(row).x for row in rows.numpy()])
    )


def blocks(fit):
    return torch.searchsorted(fit, fit)


def drawn(classes, slope, count=6):
    draw = torch.Generator().manual_seed(classes)
    steps = torch.rand(count, classes, generator=draw, dtype=torch.float64) ** 4
    return (steps - 0.2 + slope / classes).cumsum(-1)


@pytest.mark.parametrize('slope', SLOPES)
@pytest.mark.parametrize('classes', [1, 2, 3, 100, 128, 129, 257, 1000])
def test_fit_and_blocks_are_scipys(classes, slope):
    rows = drawn(classes, slope)
    fit, want = isotonic_regression(rows), scipys(rows)
    assert_close(fit, want, rtol=0, atol=1e-11)
    assert torch.equal(blocks(fit.contiguous()), blocks(want))


@pytest.mark.parametrize('longest', [1, 2, 5, 40])
def test_the_length_of_pieces_does_not_matter(longest, monkeypatch):
    rows = torch.cat([drawn(100, slope) for slope in SLOPES])
    monkeypatch.setattr(isotonic, 'LONGEST_PIECE', longest)
    fit, want = isotonic_regression(rows), scipys(rows)
    assert_close(fit, want, rtol=0, atol=1e-11)
    assert torch.equal(blocks(fit.contiguous()), blocks(want))


def test_parts_do_not_matter(monkeypatch):
    rows = drawn(300, 0.3)
    whole = isotonic_regression(rows)
    monkeypatch.setattr(isotonic, 'MOST_NUMBERS', 5 * 75**2)
    assert torch.equal(isotonic_regression(rows), whole)


def test_no_tensor_is_larger_than_it_should_be(monkeypatch):
    """As many pairs as 2048 rows of 1000 classes have would take 2 GB."""
    sizes = []
    fit = isotonic._fit_pieces
    monkeypatch.setattr(
        isotonic,
        '_fit_pieces',
        lambda part: sizes.append(len(part) * part.shape[1] ** 2) or fit(part),
    )
    monkeypatch.setattr(isotonic, 'MOST_NUMBERS', 2**17)
    rows = drawn(1000, 0.3, count=16)
    isotonic_regression(rows)
    assert sum(sizes) == 16 * 1000 * 125
    assert max(sizes) <= 2**17


def test_no_rows():
    assert isotonic_regression(torch.empty(0, 300)).shape == (0, 300)


@pytest.mark.parametrize('classes', [100, 300])
def test_float32_is_as_good_as_its_numbers(classes):
    rows = 10_000 + drawn(classes, 0.3)
    want = scipys(rows.float().double())
    assert_close(isotonic_regression(rows.float()).double(), want, rtol=0, atol=2e-3)


def test_a_nan_stays_in_its_row():
    rows = drawn(300, 0.3)
    want = isotonic_regression(rows)
    rows[2, 40] = torch.nan
    fit = isotonic_regression(rows)
    rest = [0, 1, 3, 4, 5]
    assert torch.equal(fit[rest], want[rest])
