"""The maths of CMKD: linear and rank correlation of the scores of every sample.

Half precision is computed and returned in float32. A row is first divided by its
range, because scores of any size are then as exact as scores around 1.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ...checks import LARGEST_SETTING, LEAST_SETTING, checked_scores, is_number
from ...widened import widened
from .isotonic import isotonic_regression
from .once import once_only


def pearson_distance(preds_S: Tensor, preds_T: Tensor) -> Tensor:
    r"""Return 1 - rho of every row, (N,), from 0 (same direction) to 2 (opposite).

    rho is Pearson's correlation over the classes (CMKD, arXiv 2410.06561), without an
    epsilon. A positive scale or an offset of a row does not change it. The distance
    keeps its relative precision near 0, because it is computed from the difference of
    the normalised rows. A row of equal scores (to within 1e-19 in float32, the root
    of the smallest normal number) has distance 1 and gradient 0.

    The scores are (N, C), and the teacher's get no gradient.

    Raises:
        TypeError: scores are no float tensors.
        ValueError: they are not (N, C), or the shapes differ.
    """
    return _distance(torch.cat(checked_scores(preds_S, preds_T)))


def spearman_distance(
    preds_S: Tensor, preds_T: Tensor, regularization: float = 2.0
) -> Tensor:
    """Return 1 - rho of the soft ranks of every row, (N,), from 0 to 2.

    rho is Pearson's correlation of the :func:`soft_ranks` of both nets. With
    ``regularization`` 0 it is Spearman's correlation, with average ranks for ties and
    without gradient; towards infinity it becomes Pearson's. A row of equal scores has
    distance 1 and gradient 0.

    Arguments and errors are those of :func:`pearson_distance` and :func:`soft_ranks`.
    """
    both = torch.cat(checked_scores(preds_S, preds_T))
    return _distance(_centred_ranks(both, regularization))


def soft_ranks(scores: Tensor, regularization: float = 2.0) -> Tensor:
    r"""Return differentiable ranks of every row, (N, C): 1 for the lowest score.

    "Fast Differentiable Sorting and Ranking", arXiv 2002.08871, Eq. 6 with the
    quadratic regulariser: the point of the permutahedron of (1, ..., C) that is
    nearest to

    .. math:: C z / regularization, \quad z = (score - mean) / deviation

    Neighbouring scores share a block, in which the ranks are affine in the scores. A
    score alone in its block has its ordinary rank and no gradient. The row is
    standardised and C is a factor, because one regularisation then means the same at
    every scale and number of classes: 6 % of normal scores share a block at 0.1, 45 %
    at 1, 72 % at 2, 87 % at 3. From 10 on all share one, and the ranks are the
    standardised scores.

    The cost is a sort and an :func:`isotonic_regression`, both on the scores' device.

    Args:
        scores (Tensor): (N, C), float32 or float64.
        regularization (float): How soft the ranks are, without unit; 0 gives
            ordinary ranks without gradient, and ties their average. Defaults to 2.0.

    Raises:
        ValueError: ``regularization`` is neither 0 nor from 1e-6 to 1e6.
    """
    return _centred_ranks(scores, regularization) + (scores.shape[-1] + 1) / 2


def check_regularization(regularization: float) -> None:
    """Raise ValueError unless it is 0 or a number from 1e-6 to 1e6.

    With a lower one a gradient between two equal scores could overflow float32, and
    with a higher one the ranks could underflow.
    """
    if not is_number(regularization) or not (
        regularization == 0 or LEAST_SETTING <= regularization <= LARGEST_SETTING
    ):
        raise ValueError(
            f'regularization must be 0 or from {LEAST_SETTING:g} to '
            f'{LARGEST_SETTING:g}, got {regularization!r}; write regularization=2.0, '
            'say.'
        )


def _distance(both: Tensor) -> Tensor:
    """Return 1 - rho of the student's rows and, after them, the teacher's: (2 N, C).

    Both nets go together, because a GPU takes as long to start on one as on two.
    """
    unit, inverse = _UnitRows.apply(both)
    unit_S, unit_T = unit.chunk(2)
    constant = (inverse == 0).view(2, -1).any(0)
    # Half the squared difference of unit rows is 1 - rho.
    return ((unit_S - unit_T).square().sum(-1) / 2).masked_fill(constant, 1)


class _UnitRows(torch.autograd.Function):
    """Rows minus their mean, divided by their length, and 1 / length.

    Both are 0 for a constant row.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
        # Half of the distance from the peak cannot overflow. It is exactly 0 in a
        # constant row, whose mean would be rounded.
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
    @once_only
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Tensor:
        rows, inverse = ctx.saved_tensors
        grad = grad - grad.mean(-1, keepdim=True)
        along = (grad * rows).sum(-1, keepdim=True)
        return grad.addcmul_(rows, along, value=-1).mul_(inverse)


def _centred_ranks(scores: Tensor, regularization: float) -> Tensor:
    """Return :func:`soft_ranks` minus their mean, which makes small ones exact."""
    check_regularization(regularization)
    unit, inverse = _UnitRows.apply(scores)
    ordered, order = scores.detach().sort(-1, descending=True)
    # The gaps are those of the scores, because close neighbours may become equal in
    # the normalised rows.
    gaps = -ordered.diff(dim=-1)
    if regularization:
        gaps = gaps * (inverse * math.sqrt(scores.shape[-1]) / regularization)
    else:
        gaps = gaps > 0
    first, last = _blocks(gaps, scores.shape[-1])
    return _SoftRanks.apply(unit, order, first, last, regularization)


def _blocks(gaps: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the places of the first and last score of each score's block, (N, C).

    The blocks pool adjacent violators of (score - rank / classes), both from the
    highest down. ``gaps``, (N, C - 1), are those between neighbouring scores in units
    of the regularisation. They are limited to 1, because the ranks of a row differ by
    less, so that nothing pools across a gap of 1. This keeps the sums small and the
    ties exact.
    """
    gaps = widened(gaps).nan_to_num(1).clamp_(max=1)  # so that a nan keeps to its row
    place = torch.arange(classes, dtype=gaps.dtype, device=gaps.device)
    rising = torch.nn.functional.pad(gaps.cumsum(-1), (1, 0)) - place / classes
    levels = isotonic_regression(rising).contiguous()
    first = torch.searchsorted(levels, levels)
    last = torch.searchsorted(levels, levels, right=True) - 1
    return first, last


class _SoftRanks(torch.autograd.Function):
    """Ranks minus their mean, from the order and the blocks of every row."""

    @staticmethod
    def forward(
        ctx: Any,
        unit: Tensor,
        order: Tensor,
        first: Tensor,
        last: Tensor,
        regularization: float,
    ) -> Tensor:
        classes = unit.shape[-1]
        ctx.slope = classes**1.5 / regularization if regularization else 0.0
        ctx.save_for_backward(order, first, last)
        rows = unit.gather(-1, order)
        # The first score of the block is subtracted, because ties are then exactly 0.
        rows = _minus_mean(rows - rows.gather(-1, first), first, last).mul_(ctx.slope)
        rows += (classes - 1 - first - last) / 2
        return torch.empty_like(rows).scatter_(-1, order, rows)

    @staticmethod
    @once_only
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        order, first, last = ctx.saved_tensors
        rows = _minus_mean(grad.gather(-1, order), first, last).mul_(ctx.slope)
        # A score alone in its block has no gradient, only what rounding has left.
        rows = rows.masked_fill_(first == last, 0)
        grad = torch.empty_like(rows).scatter_(-1, order, rows)
        return grad, None, None, None, None


def _minus_mean(rows: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Subtract from every element the mean of its block."""
    # The sums are in float64, because a GPU would otherwise add up in float32.
    sums = torch.nn.functional.pad(widened(rows).cumsum(-1), (1, 0))
    size = last - first + 1
    mean = (sums.gather(-1, last + 1) - sums.gather(-1, first)) / size
    return rows - mean.to(rows.dtype)
