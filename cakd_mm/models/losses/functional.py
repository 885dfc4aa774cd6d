"""The maths of CAKD (arXiv 2410.14741): tensors in, tensors out.

Rows are worked out in the log domain, from their peak in each cluster, and
gradients in closed form: neither becomes inf or nan, however far apart the
scores are. Half precision is computed and returned in float32. Exponentials
are taken to base 2, which PyTorch computes three times as fast on a CPU.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...utils.compiling import is_compiling
from .checks import check_classes, check_tau, checked_scores, kind_of
from .correlation import pearson_distance, spearman_distance
from .normalized import normalized_kd

__all__ = [
    'DecoupledKL',
    'batch_mean',
    'decoupled_kl',
    'decoupled_kl_and_mass',
    'normalized_kd',
    'pearson_distance',
    'single_label_kl',
    'single_label_kl_and_terms',
    'spearman_distance',
    'weighted_kl',
]

_LN2 = math.log(2)
_NUMBERS: dict[tuple, tuple] = {}


class DecoupledKL(NamedTuple):
    """The three divergences of every row, each of shape (N,)."""

    bcd: Tensor
    scd: Tensor
    wcd: Tensor


def decoupled_kl(
    preds_S: Tensor, preds_T: Tensor, strong_mask: Tensor, tau: float = 1.0
) -> DecoupledKL:
    r"""Split KL(teacher || student) between and within two clusters of classes.

    CAKD, arXiv 2410.14741, Eq. 1-7. With P the probability of a cluster (S
    strong, W weak) and q = p / P the probabilities within it, ``bcd`` is the
    divergence of the two P, ``scd`` and ``wcd`` those of the q, and

    .. math:: KL = BCD + P_S^T \, SCD + P_W^T \, WCD

    An empty cluster contributes 0 to every term and to every gradient. The
    terms do not carry the factor ``tau**2``.

    Args:
        preds_S (Tensor): The student's scores (logits or features), (N, C).
        preds_T (Tensor): The teacher's, (N, C); they get no gradient.
        strong_mask (Tensor): bool, (N, C); True marks the strong cluster.
        tau (float): Temperature that divides the scores. Defaults to 1.0.

    Returns:
        DecoupledKL: ``bcd``, ``scd`` and ``wcd``, each (N,).

    Raises:
        TypeError: a tensor has the wrong dtype, or ``tau`` is no number.
        ValueError: shapes differ, or ``tau`` is not positive and finite.
    """
    return decoupled_kl_and_mass(preds_S, preds_T, strong_mask, tau)[0]


def decoupled_kl_and_mass(
    preds_S: Tensor, preds_T: Tensor, strong_mask: Tensor, tau: float = 1.0
) -> tuple[DecoupledKL, Tensor]:
    """Return :func:`decoupled_kl` and the teacher's mass of S, P_S^T, (N,).

    The mass, a probability, comes out of the same pass and has no gradient.
    Arguments and errors are those of :func:`decoupled_kl`.
    """
    preds_S, preds_T = _checked(preds_S, preds_T, tau)
    _check_mask(strong_mask, preds_S)
    *terms, mass = _DecoupledKL.apply(preds_S, preds_T, strong_mask, tau)
    return DecoupledKL(*terms), mass


def weighted_kl(
    preds_S: Tensor,
    preds_T: Tensor,
    strong_mask: Tensor,
    tau: float = 1.0,
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float | Tensor = 1.0,
    function: Callable | None = None,
    factor: float = 1.0,
) -> tuple[Tensor, DecoupledKL, Tensor]:
    """Return the mean of ``alpha * bcd + beta * scd + gamma * wcd`` times ``factor``.

    The terms and the teacher's mass of S, (N,) each and without a gradient, come
    second and third. The other arguments and errors are those of
    :func:`decoupled_kl`, which takes longer: it does not know the weights.

    ``function`` computes all of it: ``fused.clusters``, compiled, or
    ``ops.clusters``. Defaults to their twin here, which is made to run eagerly.
    """
    function = function or eager_clusters
    preds_S, preds_T = _checked(preds_S, preds_T, tau)
    _check_mask(strong_mask, preds_S)
    factor /= max(len(preds_S), 1)
    mean, (*terms, mass) = _with_gradient(
        function, factor, preds_S, preds_T, strong_mask, tau, alpha, beta, gamma
    )
    return mean, DecoupledKL(*terms), mass


class LabelTerms(NamedTuple):
    """What the divergences of every row are made of, without a gradient.

    ``log_total`` and ``cost``, (2, N, 1), are those of the student and the teacher.
    """

    log_total: Tensor
    cost: Tensor
    within: Tensor
    weak_mass: Tensor

    def means(self) -> dict[str, Tensor]:
        """Return the means of ``bcd``, ``wcd`` and the teacher's mass of the label."""
        log_S, log_T = self.log_total.unbind()
        cost_S, cost_T = self.cost.unbind()
        return {
            'bcd': batch_mean(cost_S - cost_T),
            'wcd': batch_mean(self.within + (log_S - log_T)),
            'strong_mass': 1 - batch_mean(self.weak_mass),
        }


def single_label_kl(
    preds_S: Tensor,
    preds_T: Tensor,
    labels: Tensor,
    tau: float = 1.0,
    alpha: float = 1.0,
    gamma: float = 1.0,
) -> Tensor:
    """Return the mean of ``alpha * bcd + gamma * wcd`` for clusters S = {label}.

    What :func:`decoupled_kl` gives for the mask of ``labels`` (``scd`` is 0
    then), several times as fast, and with one tensor kept for the backward.
    ``labels`` is int64, (N,); the other arguments and errors are as there.
    """
    return single_label_kl_and_terms(preds_S, preds_T, labels, tau, alpha, gamma)[0]


def single_label_kl_and_terms(
    preds_S: Tensor,
    preds_T: Tensor,
    labels: Tensor,
    tau: float = 1.0,
    alpha: float = 1.0,
    gamma: float = 1.0,
    function: Callable | None = None,
) -> tuple[Tensor, LabelTerms]:
    """Return :func:`single_label_kl` and what its terms can be read from.

    ``function`` computes both: ``fused.single_label``, compiled, or
    ``ops.single_label``. Defaults to their twin here, which is made to run eagerly.
    """
    function = function or eager_single_label
    preds_S, preds_T = _checked(preds_S, preds_T, tau)
    try:
        loss, terms = _with_gradient(
            function, 1.0, preds_S, preds_T, labels, tau, alpha, gamma
        )
    except RuntimeError:  # as PyTorch says it, naming no key
        check_classes(labels, preds_S)
        raise
    return loss, LabelTerms(*terms)


def batch_mean(rows: Tensor) -> Tensor:
    """Return the mean of all elements, 0 for a batch without any."""
    return rows.sum() / max(rows.numel(), 1)


def _check_mask(strong_mask: Tensor, preds: Tensor) -> None:
    if not isinstance(strong_mask, Tensor) or strong_mask.dtype != torch.bool:
        raise TypeError(
            f'strong_mask must be a bool tensor, got {kind_of(strong_mask)}; '
            'write `mask > 0` to make one.'
        )
    if strong_mask.shape != preds.shape:
        raise ValueError(
            f'strong_mask has shape {tuple(strong_mask.shape)} and preds_S '
            f'{tuple(preds.shape)}: give the mask one entry per score.'
        )


def _checked(preds_S: Tensor, preds_T: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Check the arguments; return the scores in the precision to compute in."""
    check_tau(tau)
    return checked_scores(preds_S, preds_T)


# Below, a stack of both nets holds the student first and the teacher second, and
# numbers per row keep their last dimension: (2, N, 1). The fewer the operations
# and the fresh tensors, the faster: on small batches each costs more than its sums.


def _membership(mask: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return 1 for members of a cluster and 0 for others, for S and for W."""
    strong = mask.view(torch.uint8).to(dtype)  # faster than from bool
    return strong, 1 - strong


def _depth(distance: Tensor, tau: float) -> Tensor:
    """Turn distances below the peak into log2 of exp(distance / tau), in place."""
    low = torch.finfo(distance.dtype).min
    return distance.mul_(1 / (_LN2 * tau)).clamp_(min=low)


def _between(log_ratio: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Compare how the nets split their mass over clusters a and b.

    Takes log(P_a / P_b), in float64 since BCD may be tiny beside it; returns
    BCD, the student's P_a minus the teacher's, and the teacher's.
    """
    limit = torch.finfo(dtype).max / 2
    ratio_S, ratio_T = log_ratio.clamp_(-limit, limit).unbind()
    cost_S, cost_T = F.softplus(log_ratio, threshold=40).unbind()  # -log P_b
    p_S, p_T = log_ratio.sigmoid().unbind()
    bcd = (cost_S - cost_T).addcmul_(p_T, ratio_T - ratio_S)
    return bcd, p_S - p_T, p_T


def _within(excess: Tensor, teacher: Tensor, gap: Tensor) -> Tensor:
    """Return what adds up to KL(teacher || student) plus log(total_T / total_S).

    ``excess``, the student's q minus the teacher's, adds up to 0 and cancels
    the rounding of the totals, which would swamp small divergences.
    """
    return torch.addcmul(excess, teacher, gap, value=_LN2)


def _divide(preds_S, preds_T, strong, weak, tau):
    """Return BCD, SCD, WCD, the teacher's mass, the student's excess of it, and q.

    Clusters are told apart by arithmetic on 0 and 1: masking is slow on CPUs.
    """
    dtype, low = preds_S.dtype, torch.finfo(preds_S.dtype).min
    scores = torch.stack((preds_S, preds_T))
    in_S = scores - weak / strong  # minus 0 / 1 for members, 1 / 0 for others
    in_W = scores.sub_(strong / weak)
    # without members a peak is -inf, which must not meet the others' -inf
    peak_S = in_S.amax(-1, keepdim=True).clamp_(min=low)
    peak_W = in_W.amax(-1, keepdim=True).clamp_(min=low)
    depth = _depth(torch.maximum(in_S.sub_(peak_S), in_W.sub_(peak_W)), tau)
    gap = depth[1] - depth[0]
    weight_S = torch.mul(depth.exp2_(), strong, out=in_S)
    weight_W = depth.sub_(weight_S)
    # the peak weighs 1, so only a sum over no members is below that
    total_S = weight_S.sum(-1, keepdim=True).clamp_(min=1)
    total_W = weight_W.sum(-1, keepdim=True).clamp_(min=1)
    q = weight_W.div_(total_W).add_(weight_S.div_(total_S))
    student, teacher = q.unbind()
    log_S, log_W = total_S.double().log_(), total_W.double().log_()
    log_ratio = (log_S - log_W).add_(peak_S.sub_(peak_W), alpha=1 / tau)
    bcd, shift, mass = (x.to(dtype) for x in _between(log_ratio, dtype))
    both = _within(student - teacher, teacher, gap)
    scd = torch.mul(both, strong, out=gap)
    wcd = both.sub_(scd).sum(-1, keepdim=True).sub_(log_W[1] - log_W[0])
    scd = scd.sum(-1, keepdim=True).sub_(log_S[1] - log_S[0])
    return bcd, scd, wcd, mass, shift, q


def _slope(q, strong, weak, shift, alpha, beta, gamma, tau):
    """Return the gradient of the weighted terms of a row."""
    student, teacher = q.unbind()
    within = (strong * beta).add_(weak * gamma).mul_(student - teacher)
    between = (strong - weak).mul_(shift * alpha)
    return within.addcmul_(between, student).mul_(1 / tau)


class _DecoupledKL(torch.autograd.Function):
    """The weights of the terms are not known before the backward pass."""

    @staticmethod
    def forward(ctx, preds_S, preds_T, mask, tau):
        clusters = _membership(mask, preds_S.dtype)
        *terms, shift, q = _divide(preds_S, preds_T, *clusters, tau)
        ctx.save_for_backward(q, mask, shift)
        ctx.tau = tau
        bcd, scd, wcd, mass = (term.squeeze(-1) for term in terms)
        ctx.mark_non_differentiable(mass)
        return bcd, scd, wcd, mass

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_bcd, grad_scd, grad_wcd, _):
        q, mask, shift = ctx.saved_tensors
        clusters = _membership(mask, q.dtype)
        weights = (grad.unsqueeze(-1) for grad in (grad_bcd, grad_scd, grad_wcd))
        return _slope(q, *clusters, shift, *weights, ctx.tau), None, None, None


def eager_clusters(preds_S, preds_T, mask, tau, alpha, beta, gamma):
    """Return what ``fused.clusters`` does."""
    clusters = _membership(mask, preds_S.dtype)
    *terms, shift, q = _divide(preds_S, preds_T, *clusters, tau)
    bcd, scd, wcd, mass = (term.squeeze(-1) for term in terms)
    grad = _slope(q, *clusters, shift, alpha, beta, gamma, tau)
    return alpha * bcd + beta * scd + gamma * wcd, grad, bcd, scd, wcd, mass


def _with_gradient(
    function: Callable, factor: float, preds_S: Tensor, *arguments
) -> tuple[Tensor, list[Tensor]]:
    """Return a scalar that can be differentiated by ``preds_S``, and what is logged.

    ``function`` returns a value, a scalar or one per row, the gradient of its sum by
    ``preds_S``, and the rest. The scalar is that sum times ``factor``.
    """
    # a compiled function would be compiled again for what wants no gradient
    value, grad, *terms = function(preds_S.detach(), *arguments)
    if value.dim():
        value = value.sum()
    if factor != 1:
        value = value * factor
    # in a tuple, where autograd sees no tensors: it takes its time with each
    return _Ready.apply(preds_S, (value, grad, factor)), terms


class _Ready(torch.autograd.Function):
    """A scalar whose gradient by ``preds_S``, up to a factor, is there."""

    @staticmethod
    def forward(ctx, preds_S, value_grad_factor):
        value, grad, ctx.factor = value_grad_factor
        ctx.save_for_backward(grad)
        return value

    @staticmethod
    def backward(ctx, grad_value):
        (grad,) = ctx.saved_tensors
        if ctx.factor != 1:
            grad_value = grad_value * ctx.factor
        times = _times_once if torch.is_grad_enabled() else torch.mul
        return times(grad, grad_value), None


@once_differentiable
def _times_once(grad, grad_value):
    return grad * grad_value


def eager_single_label(preds_S, preds_T, labels, tau, alpha, gamma):
    """Return what ``fused.single_label`` does."""
    arguments = preds_S, preds_T, labels, tau, alpha, gamma
    if is_compiling():
        values, slopes, *terms = _single_label(*arguments)
    else:
        with torch.inference_mode():  # operations cost less: nothing is tracked
            values, slopes, *terms = _single_label(*arguments)
    # outside, since autograd must take the results
    factor = alpha / (tau * max(len(labels), 1))
    return values.sum(), torch.addcmul(*slopes, value=factor), *terms


def _single_label(preds_S, preds_T, labels, tau, alpha, gamma):
    """Return addends of the loss, a sum and factors that make up its gradient, and
    what :class:`LabelTerms` holds.

    A small batch pays for each operation and hardly for its elements: so there are
    few, of one dtype.
    """
    rows, dtype = len(labels) or 1, preds_S.dtype
    low, to_log2, weight, slope = _numbers(tau, gamma, rows, dtype)
    index = labels.unsqueeze(-1)
    label = index.expand(2, -1, -1)
    scores = torch.cat((preds_S, preds_T)).view(2, *preds_S.shape)  # faster than stack
    target = scores.gather(-1, label)
    scores.scatter_(-1, label, low)
    peak = scores.amax(-1, keepdim=True)
    scores.sub_(peak).mul_(to_log2).clamp_(min=low)
    student, teacher = scores.unbind()
    gap = teacher - student
    total = scores.exp2_().sum(-1, keepdim=True)
    scores.div_(total)
    excess = student - teacher
    within = torch.addcmul(excess, teacher, gap, value=_LN2, out=gap)
    within = within.sum(-1, keepdim=True)
    log_total = total.log_()
    log_ratio = torch.sub(log_total, target.sub_(peak), alpha=1 / tau)  # W to S
    weak_S, weak_T = log_ratio.clamp_(low / 2, -low / 2).sigmoid().unbind()
    # -log P_S - P_W^T log(P_W / P_S): the student's exceeds the teacher's by BCD
    cost = F.softplus(log_ratio, threshold=40).addcmul_(weak_T, log_ratio, value=-1)
    student.scatter_(-1, index, -1)  # what q is to the others' slope
    slopes = excess.mul_(slope), student, weak_S - weak_T
    part_S, part_T = (log_total * weight).add_(cost, alpha=alpha / rows).unbind()
    values = (part_S - part_T).add_(within, alpha=gamma / rows)
    return values, slopes, log_total, cost, within, weak_T


def _numbers(tau, gamma, rows, dtype):
    """Return the least number, and factors of depths, of WCD and of its gradient.

    PyTorch makes a tensor of a number each time, for half of an operation's cost.
    """
    key = tau, gamma, rows, dtype
    numbers = _NUMBERS.get(key)
    if numbers is not None and not is_compiling():
        return numbers
    factors = 1 / (_LN2 * tau), gamma / rows, gamma / (tau * rows)
    low = torch.finfo(dtype).min
    if is_compiling():
        return low, *factors
    factors = (torch.tensor(x, dtype=dtype, device='cpu') for x in factors)
    numbers = low, *factors
    if type(numbers[1]) is Tensor:  # else one of a tracing mode, gone with it
        if len(_NUMBERS) >= 256:
            _NUMBERS.clear()
        _NUMBERS[key] = numbers
    return numbers
