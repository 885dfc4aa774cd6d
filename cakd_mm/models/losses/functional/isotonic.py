"""Isotonic regression of many rows at once, on the device where they are.

The fit of a row is the slope of the greatest convex function under its cumulative sum.
The host never waits for a value, because no size and no number of rounds depends on
one.
"""

import math

import torch
from torch import Tensor

# A piece of a row is fitted at once; a longer one has fewer rounds and more numbers.
LONGEST_PIECE = 128
# Most numbers that are in memory for the pieces at a time: 32 MB in float64. A GPU is
# busy with as many, and a CPU gets more only from fresh memory, which is slow.
MOST_NUMBERS = 2**22


@torch.no_grad()
def isotonic_regression(rows: Tensor) -> Tensor:
    """Return the nearest non-decreasing sequence of every row, (N, C).

    Nearest means by the sum of squares. All places of a block, whose rows' values are
    pooled, have exactly the same number.

    A row is cut into pieces of up to 128 places. They are fitted by comparing all
    pairs of places, and joined in pairs until one is left. Therefore up to 128 places
    need one round, 1000 need four, and the cost is O(C log(C) ** 2) per row. The
    pairs are compared in parts of 32 MB in float64, so that memory is O(N C).

    Args:
        rows (Tensor): Finite numbers, (N, C), C >= 1. Those with a nan have an
            arbitrary fit, and the other rows are right.
    """
    count, width = rows.shape
    rounds = (math.ceil(width / LONGEST_PIECE) - 1).bit_length()
    length = math.ceil(width / 2**rounds)
    if missing := length * 2**rounds - width:
        # As many more of the largest value pool with nothing before them.
        top = rows.amax(-1, keepdim=True)
        rows = torch.cat((rows, top.expand(count, missing)), -1)
    parts = rows.reshape(-1, length).split(max(MOST_NUMBERS // length**2, 1))
    fit = torch.cat([_fit_pieces(part) for part in parts])
    for _ in range(rounds):
        fit = _join_halves(fit.view(len(fit) // 2, 2 * fit.shape[1]))
    return fit[:, :width]


def _fit_pieces(rows: Tensor) -> Tensor:
    # Sums are those of differences, because these are small and their sums exact.
    start = rows[:, :1]
    rows = rows - start
    sums = rows.cumsum(-1)
    place = torch.arange(rows.shape[-1], dtype=rows.dtype, device=rows.device)
    count = place - place.unsqueeze(1) + 1
    # The means from every place (second dimension) to every later one. Where a block
    # begins, the least of them is its level, and at its other places it is lower.
    means = sums.unsqueeze(1) - (sums - rows).unsqueeze(2)
    means = means.div_(count).masked_fill_(count < 1, math.inf)
    return means.amin(-1).cummax(-1).values + start


def _join_halves(rows: Tensor) -> Tensor:
    """Fit rows whose two halves do not decrease.

    The end of the first half and the start of the second pool at one level. The rest
    of the first half is below it, and the rest of the second above.
    """
    half = rows.shape[-1] // 2
    left, right = (side.contiguous() for side in rows.split(half, -1))
    start = right[:, :1]
    rows = rows - start
    sums = rows.cumsum(-1)
    place = torch.arange(half, device=rows.device)
    # A place of the first half is below the level if those behind it, with all that
    # is lower in the second half, have a higher mean than its own value.
    lower = torch.searchsorted(right, left)
    behind = sums[:, half - 1 :].gather(-1, lower) - sums[:, :half]
    below = behind > rows[:, :half] * (lower + (half - 1 - place))
    # The level is the least mean from the first place that is not below to one of the
    # second half. Where nothing pools, it lies between the halves and changes none.
    total = sums[:, half:] - (rows[:, :half] * below).sum(-1, keepdim=True)
    count = place + 1 + half - below.sum(-1, keepdim=True)
    level = (total / count).amin(-1, keepdim=True) + start
    return torch.cat((left.minimum(level), right.maximum(level)), -1)
