"""Tokens as maps and back, against loops over patches."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.testing import assert_close

from cakd_mm.models.resizing import resize
from cakd_mm.models.tokens import (
    check_grid,
    grid_of,
    map_to_tokens,
    resize_tokens,
    split_tokens,
    tokens_to_map,
)

SIDES = st.integers(1, 6)


def numbers(*shape):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def test_patches_lie_row_by_row():
    tokens = numbers(2, 12, 5)
    found = tokens_to_map(tokens, (3, 4))
    assert found.shape == (2, 5, 3, 4)
    for row in range(3):
        for column in range(4):
            assert_close(found[:, :, row, column], tokens[:, 4 * row + column])
    assert torch.equal(map_to_tokens(found), tokens)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3), st.integers(0, 5), SIDES, SIDES)
def test_there_and_back(samples, extra, height, width):
    tokens = numbers(samples, extra + height * width, 3)
    front, patches = split_tokens(tokens, extra)
    grid = grid_of(tokens.shape[1], extra, (height, width))
    again = map_to_tokens(tokens_to_map(patches, grid))
    assert torch.equal(torch.cat((front, again), 1), tokens)
    assert front.shape[1] == extra


@settings(max_examples=40, deadline=None)
@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES))
def test_resized_tokens_are_those_of_the_resized_map(grid, size):
    feature = numbers(2, 3, *grid)
    found = resize_tokens(map_to_tokens(feature), grid, size)
    assert torch.equal(found, map_to_tokens(resize(feature, size)))
    assert found.min() >= feature.min() - 1e-12
    assert found.max() <= feature.max() + 1e-12
    same = resize_tokens(torch.ones(1, grid[0] * grid[1], 2), grid, size)
    assert_close(same, torch.ones(1, size[0] * size[1], 2))


def test_a_larger_grid_is_averaged_by_blocks():
    tokens = numbers(2, 4 * 6, 3)
    found = resize_tokens(tokens, (4, 6), (2, 3))
    for place in range(6):
        row, column = divmod(place, 3)
        block = [
            tokens[:, 6 * (2 * row + i) + 2 * column + k]
            for i in (0, 1)
            for k in (0, 1)
        ]
        assert_close(found[:, place], sum(block) / 4)
    assert resize_tokens(tokens, (4, 6), (4, 6)) is tokens


def test_a_smaller_grid_is_interpolated_between_centres():
    """Where one side is larger and the other smaller, too."""
    tokens = torch.tensor([1.0, 5.0]).view(1, 2, 1)
    found = resize_tokens(tokens, (1, 2), (1, 4))
    assert_close(found.flatten(), torch.tensor([1.0, 2.0, 4.0, 5.0]))
    column = torch.tensor([0.0, 4.0, 8.0, 12.0]).view(1, 4, 1)
    found = resize_tokens(column, (4, 1), (2, 2))
    assert_close(found.flatten(), torch.tensor([2.0, 2.0, 10.0, 10.0]))


@pytest.mark.parametrize(
    ('count', 'extra', 'grid', 'expected'),
    [
        (196, 0, None, (14, 14)),
        (197, 1, None, (14, 14)),
        (261, 5, None, (16, 16)),
        (1, 0, None, (1, 1)),
        (13, 1, (3, 4), (3, 4)),
    ],
)
def test_the_grid_of_a_number_of_tokens(count, extra, grid, expected):
    assert grid_of(count, extra, grid) == expected


@pytest.mark.parametrize(
    ('count', 'extra', 'grid', 'match'),
    [
        (197, 0, None, r'`a\.grid` = None: There are 197 .* 197 make no square.*\(14,'),
        (12, 0, (3, 5), r'`a\.grid` = \(3, 5\): .*12 do not fill 3 x 5.*grid='),
        (5, 5, None, 'other 0 make no square'),
        (3, 5, None, 'of which 5 are no patches.*other 0'),
    ],
)
def test_tokens_that_fill_no_grid(count, extra, grid, match):
    with pytest.raises(ValueError, match=match):
        grid_of(count, extra, grid, 'a.grid')
    with pytest.raises(ValueError, match='square|fill.*Do that'):
        grid_of(count, extra, grid, 'a.grid', 'Do that.')


def test_a_grid_is_a_number_or_two():
    assert check_grid('a.grid', None) is None
    assert check_grid('a.grid', 7) == (7, 7)
    assert check_grid('a.grid', [3, 4]) == (3, 4)
    for wrong in (0, 'all', (1, 2, 3), (7,), (7.0, 7), True, (-1, 4)):
        with pytest.raises(ValueError, match=r'`a\.grid` = .*Write grid=\(14, 14\)'):
            check_grid('a.grid', wrong)
