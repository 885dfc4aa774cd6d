"""Tokens of transformers as maps, and back: tensors in, tensors out."""

from math import isqrt
from typing import Any

from torch import Tensor

from ..utils.errors import describe
from .checks import is_count
from .resizing import resize

# Height and width of the patches of an image.
Grid = tuple[int, int]


def split_tokens(tokens: Tensor, extra_tokens: int) -> tuple[Tensor, Tensor]:
    """Split tokens (N, L, C) into those in front and those of patches.

    Args:
        tokens (Tensor): (N, extra_tokens + h * w, C).
        extra_tokens (int): Number of class and register tokens, which come first.

    Returns:
        tuple[Tensor, Tensor]: (N, extra_tokens, C) and (N, h * w, C).
    """
    return tokens[:, :extra_tokens], tokens[:, extra_tokens:]


def tokens_to_map(tokens: Tensor, grid: Grid) -> Tensor:
    """Lay the tokens of patches (N, h * w, C), row by row, out as (N, C, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def map_to_tokens(feature: Tensor) -> Tensor:
    """Return the positions of a map (N, C, h, w), row by row, as (N, h * w, C)."""
    return feature.flatten(2).transpose(1, 2)


def resize_tokens(tokens: Tensor, grid: Grid, size: Grid) -> Tensor:
    """Bring tokens of a grid to another grid, by the rule of :func:`resize`.

    Args:
        tokens (Tensor): Of patches only, (N, h * w, C), where ``grid`` is (h, w).
        grid (tuple[int, int]): Height and width of what is there.
        size (tuple[int, int]): Those to come to, (h', w').

    Returns:
        Tensor: (N, h' * w', C).
    """
    if grid == size:
        return tokens
    return map_to_tokens(resize(tokens_to_map(tokens, grid), size))


def grid_of(
    count: int,
    extra_tokens: int = 0,
    grid: Grid | None = None,
    key: str = 'grid',
    remedy: str | None = None,
) -> Grid:
    """Return the height and width of the grid in which tokens lie.

    Args:
        count (int): Number of all tokens.
        extra_tokens (int): How many of them are class and register tokens, and of no
            patch. Defaults to 0.
        grid (tuple[int, int], optional): Height and width, as the user wrote them.
            Defaults to None: a square.
        key (str): Config key of ``grid``, for the error. Defaults to ``'grid'``.
        remedy (str, optional): What the error tells to do. Defaults to None: to
            correct the number of extra tokens, or to write the grid.

    Raises:
        ValueError: the tokens of patches do not fill the grid, or no square.
    """
    patches = count - extra_tokens
    side = isqrt(max(patches, 0))
    height, width = grid or (side, side)
    if patches > 0 and height * width == patches:
        return height, width
    problem = f'There are {count} tokens, of which {extra_tokens} are no patches '
    problem += '(class and register tokens), and the other '
    shape = 'make no square' if grid is None else f'do not fill {height} x {width}'
    problem += f'{max(patches, 0)} {shape}.'
    raise ValueError(
        describe(
            key,
            grid,
            problem,
            remedy
            or 'Correct the number of extra tokens, or write height and width of the '
            f'grid in patches, {key.rpartition(".")[2]}=(14, 14) for 196 of them.',
        )
    )


def check_grid(key: str, value: Any) -> Grid | None:
    """Return a grid or a size that a config has: one number is a square's.

    Args:
        key (str): Its config key.
        value (Any): None, a number or a pair of numbers.

    Raises:
        ValueError: it is none of these, or a number is not positive.
    """
    if value is None:
        return None
    pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(pair) != 2 or not all(map(is_count, pair)):
        problem = 'It is a height and a width, two positive integers.'
        remedy = f'Write {key.rpartition(".")[2]}=(14, 14), say, or leave it out.'
        raise ValueError(describe(key, value, problem, remedy))
    return pair
