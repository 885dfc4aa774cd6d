"""How a feature is laid out: a map, a map with its channels last, tokens, a vector."""

from collections.abc import Container
from dataclasses import dataclass
from math import isqrt
from typing import Any

from torch import Tensor

from ..tokens import grid_of, split_tokens, tokens_to_map

# Nets have a class token, a distillation token, and a few registers.
MOST_EXTRA_TOKENS = 16
# Where the size of the map is not known, of which the tokens were made.
USUAL_EXTRA_TOKENS = 0, 1, 2


def parts_of(output: Any) -> list[Any]:
    """Return the outputs of a module that gives several, or the only one."""
    return [*output] if isinstance(output, (tuple, list)) else [output]


def only_tensor(output: Any) -> Any:
    """Return the tensor in a tuple or list of one, and anything else as it is."""
    while isinstance(output, (tuple, list)) and len(output) == 1:
        (output,) = output
    return output


@dataclass(frozen=True)
class Layout:
    """How a feature with positions is laid out.

    Args:
        kind (str): ``'map'`` (N, C, H, W), ``'channels last'`` (N, H, W, C) or
            ``'tokens'`` (N, L, C).
        size (int): H = W, or that of the square grid of tokens.
        channels (int): C.
        extra_tokens (int): Tokens in front of those of the grid. Defaults to 0.
    """

    kind: str
    size: int
    channels: int
    extra_tokens: int = 0

    def as_map(self, feature: Tensor) -> Tensor:
        """Lay a feature out as a map, (N, C, H, W).

        Raises:
            ValueError: tokens are those of images that are not square.
        """
        if self.kind == 'map':
            return feature
        if self.kind == 'channels last':
            return feature.permute(0, 3, 1, 2)
        remedy = 'Train with images that are square, or tap the tokens and write the '
        remedy += 'grid of a TokensToMapConnector.'
        grid = grid_of(feature.shape[1], self.extra_tokens, remedy=remedy)
        return tokens_to_map(split_tokens(feature, self.extra_tokens)[1], grid)


def layout_of(feature: Any, images: int, positions: Container[int]) -> Layout | None:
    """Return the layout of a feature of square images; None if it has none.

    Args:
        feature: In outline.
        images (int): How many there were.
        positions (Container[int]): How many positions the maps of the net have, which
            tells tokens of positions from others.
    """
    if not isinstance(feature, Tensor) or not feature.dim() or len(feature) != images:
        return None
    shape = tuple(feature.shape)
    if feature.dim() == 4:
        if shape[2] == shape[3] > 1:
            return Layout('map', shape[2], shape[1])
        if shape[1] == shape[2] > 1:
            return Layout('channels last', shape[1], shape[3])
    if feature.dim() == 3:
        length, channels = shape[1:]
        of_map = (x for x in range(MOST_EXTRA_TOKENS + 1) if length - x in positions)
        usual = (x for x in USUAL_EXTRA_TOKENS if _is_square(length - x))
        extra = next(of_map, next(usual, None))
        if channels > 1 and extra is not None and _is_square(length - extra):
            return Layout('tokens', isqrt(length - extra), channels, extra)
    return None


def _is_square(count: int) -> bool:
    """Tell whether so many tokens make a square of several."""
    return count > 1 and isqrt(count) ** 2 == count
