"""Linear and rank correlation of the scores of every sample: the maths of CMKD.

Tensors in, tensors out. Half precision is computed and returned in float32. What
depends on neither scale nor offset of a row is computed from its range, so that
rows of any size are as exact as those around 1.
"""

import math
from numbers import Real

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...checks import checked_scores

# Below, a gradient between two equal scores could overflow float32.
LEAST_REGULARIZATION = 1e-12


def pearson_distance(preds_S: Tensor, preds_T: Tensor) -> Tensor:
    r"""Return 1 - rho of every row, (N,), from 0 (same direction) to 2 (opposite).

    rho is Pearson's correlation over the classes, without an epsilon, as CMKD
    (arXiv 2410.06561) matches it; no positive scale and no offset of a row alters it.
    Computed from the difference of the normalised rows, it keeps its relative
    precision near 0. A row without correlation, all of whose scores are the same
    (or within 1e-19, the root of the smallest normal number, in float32), has
    distance 1 and gradient 0.

    Args:
        preds_S (Tensor): The student's scores, (N, C).
        preds_T (Tensor): The teacher's, (N, C); they get no gradient.

    Raises:
        TypeError: scores are no float tensors.
        ValueError: they are not (N, C), or the shapes differ.
    """
    preds_S, preds_T = checked_scores(preds_S, preds_T)
    return _distance(preds_S, preds_T)


def spearman_distance(
    preds_S: Tensor, preds_T: Tensor, regularization: float = 2.0
) -> Tensor:
    """Return 1 - rho of the soft ranks of every row, (N,), from 0 to 2.

    The Pearson distance of :func:`soft_ranks` of both nets, which ties and offsets
    alter alike: equal rows have distance 0. ``regularization`` goes from Spearman's
    correlation with average ranks for ties (0; no gradient) to Pearson's (infinity).
    Rows all of whose scores are the same have distance 1 and gradient 0.

    Arguments and errors are those of :func:`pearson_distance` and
    :func:`soft_ranks`; what is said there about GPUs holds here.
    """
    preds_S, preds_T = checked_scores(preds_S, preds_T)
    ranks_S, ranks_T = (
        _centred_ranks(preds, regularization) for preds in (preds_S, preds_T)
    )
    return _distance(ranks_S, ranks_T)


def soft_ranks(scores: Tensor, regularization: float = 2.0) -> Tensor:
    r"""Return differentiable ranks of every row, (N, C): 1 for the lowest score.

    "Fast Differentiable Sorting and Ranking", arXiv 2002.08871, Eq. 6 with the
    quadratic regulariser: the point of the permutahedron of (1, ..., C) nearest to

    .. math:: C z / regularization, \quad z = (score - mean) / deviation

    of its row. Scores whose ranks compete share a block, within which ranks are
    affine in the scores; alone in its block a score has its ordinary rank and no
    gradient. z instead of the score, and C, let one regularisation mean the same at
    every scale and number of classes: of normal scores 6 % share a block at 0.1, 45 %
    at 1, 72 % at 2, 87 % at 3. From 10 on they are all in one, and the ranks are the
    standardised scores.

    O(C log C) per row: a sort, and pool adjacent violators over the whole batch as
    one sequence. The latter runs in scipy, in float64 on the host. On a GPU the
    sorted gaps are copied there, the blocks are copied back, and the device waits
    for both.

    Args:
        scores (Tensor): (N, C), float32 or float64.
        regularization (float): How soft the ranks are, without unit; 0 gives
            ordinary ranks, the average one for ties, without gradient. Defaults to
            2.0.

    Raises:
        ValueError: ``regularization`` is not finite, or neither 0 nor at least
            1e-12.
    """
    return _centred_ranks(scores, regularization) + (scores.shape[-1] + 1) / 2


def check_regularization(regularization: float) -> None:
    """Raise ValueError unless it is 0 or a finite number of at least 1e-12."""
    number = isinstance(regularization, Real) and not isinstance(regularization, bool)
    if number and (
        regularization == 0 or LEAST_REGULARIZATION <= regularization < math.inf
    ):
        return
    raise ValueError(
        'regularization must be 0 or a finite number of at least '
        f'{LEAST_REGULARIZATION}, got {regularization!r}; write regularization=2.0, '
        'say.'
    )


def _distance(rows: Tensor, others: Tensor) -> Tensor:
    unit, inverse = _UnitRows.apply(rows)
    other, other_inverse = _UnitRows.apply(others)
    constant = ((inverse == 0) | (other_inverse == 0)).squeeze(-1)
    # Of unit rows, half the squared difference is 1 - rho.
    return ((unit - other).square().sum(-1) / 2).masked_fill(constant, 1)


class _UnitRows(torch.autograd.Function):
    """Rows minus their mean, of length 1 (0 if constant), and 1 / length (or 0)."""

    @staticmethod
    def forward(ctx, rows):
        # Half, from the peak and in units of the range nothing overflows, and what is
        # constant is 0 and not a rounded mean.
        rows = rows / 2
        rows -= rows.amax(-1, keepdim=True)
        span = -rows.amin(-1, keepdim=True)
        constant = span <= math.sqrt(torch.finfo(rows.dtype).tiny)
        rows = rows.div_(span.masked_fill(constant, 1))
        rows -= rows.mean(-1, keepdim=True)
        length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        rows = rows.div_(length).masked_fill_(constant, 0)
        inverse = length.mul_(2).reciprocal_().div_(span).masked_fill_(constant, 0)
        ctx.save_for_backward(rows, inverse)
        ctx.mark_non_differentiable(inverse)
        return rows, inverse

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        rows, inverse = ctx.saved_tensors
        grad = grad - grad.mean(-1, keepdim=True)
        along = (grad * rows).sum(-1, keepdim=True)
        return grad.addcmul_(rows, along, value=-1).mul_(inverse)


def _centred_ranks(scores: Tensor, regularization: float) -> Tensor:
    """Return :func:`soft_ranks` less their mean, of full precision however small."""
    check_regularization(regularization)
    unit, inverse = _UnitRows.apply(scores)
    ordered, order = scores.detach().sort(-1, descending=True)
    # From the scores themselves: in the normalised rows neighbours may fall together.
    gaps = -ordered.diff(dim=-1)
    if regularization:
        gaps = gaps * (inverse * math.sqrt(scores.shape[-1]) / regularization)
    else:
        gaps = gaps > 0
    first, last = _blocks(gaps, scores.shape[-1])
    return _SoftRanks.apply(unit, order, first, last, regularization)


def _blocks(gaps: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the places of the first and last score of each score's block, (N, C).

    Pools adjacent violators of (score - rank / classes), both from the highest
    down. ``gaps``, (N, C - 1), are those between neighbouring scores in units of
    the regularisation. Ranks differ by less than 1, so that nothing pools across
    a gap of 1: to cut gaps there keeps the sums small and the ties exact, and
    makes the rows one sequence.
    """
    count = len(gaps)
    steps = np.ones((count, classes))
    gaps = gaps.double().nan_to_num(1).clamp_(max=1)  # a nan is for its row alone
    steps[:, 1:] = gaps.cpu().numpy()
    rising = steps.cumsum().reshape(count, classes)
    rising -= np.arange(classes) / classes
    edges = isotonic_regression(rising.ravel()).blocks
    sizes = np.diff(edges)
    offset = np.arange(count)[:, None] * classes
    first = np.repeat(edges[:-1], sizes).reshape(count, classes) - offset
    last = np.repeat(edges[1:] - 1, sizes).reshape(count, classes) - offset
    return tuple(torch.from_numpy(x).to(gaps.device) for x in (first, last))


class _SoftRanks(torch.autograd.Function):
    """Ranks less their mean, from the order and the blocks of every row."""

    @staticmethod
    def forward(ctx, unit, order, first, last, regularization):
        classes = unit.shape[-1]
        ctx.slope = classes**1.5 / regularization if regularization else 0.0
        ctx.save_for_backward(order, first, last)
        rows = unit.gather(-1, order)
        # From the first of the block on: 0 for ties, exactly, whatever the slope.
        rows = _less_mean(rows - rows.gather(-1, first), first, last).mul_(ctx.slope)
        rows += (classes - 1 - first - last) / 2
        return torch.empty_like(rows).scatter_(-1, order, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        order, first, last = ctx.saved_tensors
        rows = _less_mean(grad.gather(-1, order), first, last).mul_(ctx.slope)
        rows = rows.masked_fill_(first == last, 0)  # alone, but for rounding
        grad = torch.empty_like(rows).scatter_(-1, order, rows)
        return grad, None, None, None, None


def _less_mean(rows: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Subtract from every element the mean of its block."""
    # A CPU adds up in float64 anyhow, a GPU in the dtype that it is given.
    sums = torch.nn.functional.pad(rows.double().cumsum(-1), (1, 0))
    size = last - first + 1
    mean = (sums.gather(-1, last + 1) - sums.gather(-1, first)) / size
    return rows - mean.to(rows.dtype)
