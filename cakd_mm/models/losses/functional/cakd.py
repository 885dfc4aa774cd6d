r"""The divergences of CAKD (arXiv 2410.14741, Eq. 7-9) in closed form.

With :math:`z` the scores of one net, :math:`P_S` and :math:`P_W` the probabilities of
its strong and its weak cluster, and :math:`q` the probabilities within a cluster,

.. math::
    BCD = \sum_{c \in \{S, W\}} P_c^T \log\frac{P_c^T}{P_c^S}, \quad
    SCD = \sum_{i \in S} q_i^T \log\frac{q_i^T}{q_i^S}, \quad
    WCD = \sum_{i \in W} q_i^T \log\frac{q_i^T}{q_i^S}

the gradient of :math:`\alpha BCD + \beta SCD + \gamma WCD` by the student's score
:math:`z_i` is

.. math::
    \frac{1}{\tau} \left(\beta (q_i^S - q_i^T) + \alpha (P_S^S - P_S^T) \, q_i^S
    \right), \; i \in S; \quad
    \frac{1}{\tau} \left(\gamma (q_i^S - q_i^T) - \alpha (P_S^S - P_S^T) \, q_i^S
    \right), \; i \in W

The code writes both slopes with the student's excess of the weak cluster, which is
:math:`P_W^S - P_W^T = -(P_S^S - P_S^T)`. Values and gradients are computed from each
cluster's highest score downwards and from the logarithm of :math:`P_W / P_S`.
Therefore no score up to 1e12 makes a value or a gradient inf or nan, however far apart
the scores are. Half precision is computed and returned in float32. Exponentials are
taken to base 2, because PyTorch computes these three times as fast on a CPU.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ....utils.compiling import is_compiling
from ...checks import check_classes, check_tau, checked_scores, kind_of
from ...exp2 import LN2, exp2
from ...widened import widened
from .once import once_only

# Softplus is the identity above this, where it cannot be told from it in float64.
SOFTPLUS_THRESHOLD = 40


class DecoupledKL(NamedTuple):
    """The three divergences of every row, each of shape (N,)."""

    bcd: Tensor
    scd: Tensor
    wcd: Tensor


class Divergences(NamedTuple):
    """What a weighted sum of divergences was made of, each of shape (N, 1).

    None of them has a gradient. ``scd`` is None where it is 0 throughout.
    ``weak_mass`` is the teacher's probability of the weak cluster at ``tau``.
    """

    bcd: Tensor
    scd: Tensor | None
    wcd: Tensor
    weak_mass: Tensor

    def rows(self) -> dict[str, Tensor]:
        """Return those that are not None, by name."""
        return {name: x for name, x in self._asdict().items() if x is not None}


def cluster_terms(rows: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    """Return the terms of :meth:`Divergences.rows`, those of divergences by factor.

    Of other rows the means follow. Without rows of divergences, there are only those.
    """
    others = rows.keys() - Divergences._fields
    means = {name: batch_mean(x) for name, x in rows.items() if name in others}
    if 'bcd' not in rows:
        return means
    bcd, wcd = factor * batch_mean(rows['bcd']), factor * batch_mean(rows['wcd'])
    scd = factor * batch_mean(rows['scd']) if 'scd' in rows else wcd.new_zeros(())
    mass = 1 - batch_mean(rows['weak_mass'])
    return {'bcd': bcd, 'scd': scd, 'wcd': wcd, 'strong_mass': mass, **means}


def decoupled_kl(
    preds_S: Tensor, preds_T: Tensor, strong_mask: Tensor, tau: float = 1.0
) -> DecoupledKL:
    r"""Split KL(teacher || student) between and within two clusters of classes.

    CAKD, arXiv 2410.14741, Eq. 1-7: ``bcd`` compares the probabilities of the two
    clusters, ``scd`` and ``wcd`` compare the probabilities within each, and

    .. math:: KL = BCD + P_S^T \, SCD + P_W^T \, WCD

    An empty cluster contributes 0 to every term and to every gradient. The
    terms do not carry the factor ``tau**2``.

    Args:
        preds_S (Tensor): The student's scores (logits or features), (N, C).
        preds_T (Tensor): The teacher's, (N, C); they get no gradient.
        strong_mask (Tensor): bool, (N, C); True marks the strong cluster.
        tau (float): Temperature that divides the scores. Defaults to 1.0.

    Returns:
        DecoupledKL: ``bcd``, ``scd`` and ``wcd`` in nats, each (N,).

    Raises:
        TypeError: a tensor has the wrong dtype, or ``tau`` is no number.
        ValueError: shapes differ, or ``tau`` is not from 1e-6 to 1e6.
    """
    return decoupled_kl_and_mass(preds_S, preds_T, strong_mask, tau)[0]


def decoupled_kl_and_mass(
    preds_S: Tensor, preds_T: Tensor, strong_mask: Tensor, tau: float = 1.0
) -> tuple[DecoupledKL, Tensor]:
    """Return :func:`decoupled_kl` and the teacher's probability of S, (N,).

    The probability has no gradient. Arguments and errors are those of
    :func:`decoupled_kl`.
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
    alpha: float | Tensor = 1.0,
    beta: float | Tensor = 1.0,
    gamma: float | Tensor = 1.0,
    function: Callable | None = None,
) -> tuple[Tensor, Divergences]:
    """Return the mean of ``alpha * bcd + beta * scd + gamma * wcd``, and its parts.

    The mean is a scalar over the rows. It takes less time than :func:`decoupled_kl`
    with weights, because the gradient is computed along with the value. Other
    arguments and errors are as there.

    Args:
        preds_S (Tensor): As in :func:`decoupled_kl`.
        preds_T (Tensor): As in :func:`decoupled_kl`.
        strong_mask (Tensor): As in :func:`decoupled_kl`.
        tau (float): Temperature. Defaults to 1.0.
        alpha (float | Tensor): Weight of BCD, a number or a scalar tensor. Defaults to
            1.0.
        beta (float | Tensor): Weight of SCD, likewise. Defaults to 1.0.
        gamma (float | Tensor): Weight of WCD, likewise. Defaults to 1.0.
        function (Callable, optional): A compiled :func:`two_clusters`. Defaults to
            None, the function itself.
    """
    preds_S, preds_T = _checked(preds_S, preds_T, tau)
    _check_mask(strong_mask, preds_S)
    weights = (weight / max(len(preds_S), 1) for weight in (alpha, beta, gamma))
    loss, grad, *terms = (function or two_clusters)(
        preds_S.detach(), preds_T, strong_mask, tau, *weights
    )
    return _KnownGradient.apply(preds_S, loss, grad), Divergences(*terms)


def single_label_kl(
    preds_S: Tensor,
    preds_T: Tensor,
    labels: Tensor,
    tau: float = 1.0,
    alpha: float = 1.0,
    gamma: float = 1.0,
) -> Tensor:
    """Return the mean of ``alpha * bcd + gamma * wcd`` for clusters S = {label}.

    The arguments and errors are those of :func:`single_label_kl_and_terms`.
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
) -> tuple[Tensor, Divergences]:
    """Return the mean for clusters S = {label}, and what it was made of.

    This is what :func:`weighted_kl` gives for the mask of ``labels``; ``scd`` is 0
    then. It is several times as fast, because only the weak cluster has a softmax.

    Args:
        preds_S (Tensor): The student's logits, (N, C).
        preds_T (Tensor): The teacher's, (N, C); they get no gradient.
        labels (Tensor): Class indices, int64, (N,).
        tau (float): Temperature. Defaults to 1.0.
        alpha (float): Weight of BCD. Defaults to 1.0.
        gamma (float): Weight of WCD. Defaults to 1.0.
        function (Callable, optional): A compiled :func:`label_and_others`. Defaults
            to None, the function itself.

    Raises:
        TypeError: scores are no float tensors, or ``tau`` is no number.
        ValueError: shapes differ, a label is no class (seen on a CPU), or ``tau`` is
            not from 1e-6 to 1e6.
    """
    preds_S, preds_T = _checked(preds_S, preds_T, tau)
    weights = (weight / max(len(preds_S), 1) for weight in (alpha, gamma))
    try:
        loss, grad, bcd, wcd, weak_mass = (function or label_and_others)(
            preds_S.detach(), preds_T, labels, tau, *weights
        )
    except RuntimeError:  # because PyTorch's own message names no config key
        check_classes(labels, preds_S)
        raise
    divergences = Divergences(bcd, None, wcd, weak_mass)
    return _KnownGradient.apply(preds_S, loss, grad), divergences


def batch_mean(rows: Tensor) -> Tensor:
    """Return the mean of all elements, 0 for a batch without any."""
    return rows.sum() / max(rows.numel(), 1)


# The formula


class Clusters(NamedTuple):
    """One net's scores as two clusters, (N, C) the first two, (N, 1) the others.

    Attributes:
        depth: log2 of exp(distance / tau), of the distance of a score from the
            highest of its cluster.
        q: The probability within the cluster.
        log_S: Logarithm of the sum of exp(distance / tau) over S, float64.
        log_W: The same over W.
        log_odds: log(P_W / P_S), float64.
    """

    depth: Tensor
    q: Tensor
    log_S: Tensor
    log_W: Tensor
    log_odds: Tensor


def two_clusters(
    preds_S: Tensor,
    preds_T: Tensor,
    strong_mask: Tensor,
    tau: float,
    alpha: float | Tensor,
    beta: float | Tensor,
    gamma: float | Tensor,
) -> tuple[Tensor, ...]:
    """Return the sum of the weighted divergences of all rows, and its gradient.

    The arguments are those of :func:`weighted_kl`, checked. The results are the sum,
    a scalar, the gradient, (N, C), and of each row, (N, 1), BCD, SCD, WCD and the
    teacher's P_W.
    """
    student, teacher, strong = divide(preds_S, preds_T, strong_mask, tau)
    bcd, scd, wcd, mass, shift = compare(student, teacher, strong)
    grad = gradient(student.q, teacher.q, strong, shift, alpha, beta, gamma, tau)
    loss = (alpha * bcd + beta * scd + gamma * wcd).sum()
    return loss, grad, bcd, scd, wcd, mass


def divide(
    preds_S: Tensor, preds_T: Tensor, strong_mask: Tensor, tau: float
) -> tuple[Clusters, Clusters, Tensor]:
    """Divide the scores of both nets; return the mask as numbers as well.

    The mask becomes 1 for S and 0 for W. It is a factor and not a condition, because
    a condition is several times slower on a CPU.
    """
    strong = strong_mask.to(preds_S.dtype)
    weak = 1 - strong
    # 0 / 1 leaves a member as it is, 1 / 0 takes all others out of a maximum.
    outside_S, outside_W = weak / strong, strong / weak
    student, teacher = (
        _clusters(preds, strong, outside_S, outside_W, tau)
        for preds in (preds_S, preds_T)
    )
    return student, teacher, strong


def _clusters(
    preds: Tensor, strong: Tensor, outside_S: Tensor, outside_W: Tensor, tau: float
) -> Clusters:
    """Divide the scores of one net.

    It works in place, because large fresh tensors cost a CPU more than the sums.
    """
    low = torch.finfo(preds.dtype).min
    in_S, in_W = preds - outside_S, preds - outside_W
    # The clamp is for a cluster without members, whose highest score would be -inf.
    peak_S = in_S.amax(-1, keepdim=True).clamp(min=low)
    peak_W = in_W.amax(-1, keepdim=True).clamp(min=low)
    distance = torch.maximum(in_S.sub_(peak_S), in_W.sub_(peak_W))
    depth = distance.mul_(1 / (LN2 * tau)).clamp_(min=low)
    weight = exp2(depth)
    weight_S = weight * strong
    weight_W = weight.sub_(weight_S)
    # The highest score weighs 1. Only the sum of a cluster without members is less.
    total_S = weight_S.sum(-1, keepdim=True).clamp(min=1)
    total_W = weight_W.sum(-1, keepdim=True).clamp(min=1)
    q = weight_S.div_(total_S).add_(weight_W.div_(total_W))
    log_S, log_W = widened(total_S).log(), widened(total_W).log()
    log_odds = _finite(log_W - log_S + (peak_W - peak_S) / tau)
    return Clusters(depth, q, log_S, log_W, log_odds)


def compare(
    student: Clusters, teacher: Clusters, strong: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return BCD, SCD, WCD, the teacher's P_W, and the student's excess of P_W.

    Each is (N, 1), of the dtype of ``strong``.
    """
    dtype = strong.dtype
    bcd, mass, shift = (
        x.to(dtype) for x in _between(student.log_odds, teacher.log_odds)
    )
    within = _within(student.q - teacher.q, teacher.q, teacher.depth - student.depth)
    scd = strong * within
    wcd = (within - scd).sum(-1, keepdim=True)
    wcd = wcd + (student.log_W - teacher.log_W).to(dtype)
    scd = scd.sum(-1, keepdim=True) + (student.log_S - teacher.log_S).to(dtype)
    return bcd, scd, wcd, mass, shift


def gradient(
    q_S: Tensor,
    q_T: Tensor,
    strong: Tensor,
    shift: Tensor,
    alpha: float | Tensor,
    beta: float | Tensor,
    gamma: float | Tensor,
    tau: float,
) -> Tensor:
    """Return the gradient of the weighted terms, see the head of this file.

    ``shift`` is the student's excess of P_W, (N, 1).
    """
    within = ((beta - gamma) * strong).add_(gamma).mul_(q_S - q_T)
    between = (-2 * strong).add_(1).mul_(alpha * shift)
    return within.addcmul_(between, q_S).mul_(1 / tau)


def label_and_others(
    preds_S: Tensor,
    preds_T: Tensor,
    labels: Tensor,
    tau: float,
    alpha: float,
    gamma: float,
) -> tuple[Tensor, ...]:
    """Return what :func:`two_clusters` does for the clusters S = {label}, but SCD.

    The arguments are those of :func:`single_label_kl_and_terms`, checked.
    """
    index = labels.unsqueeze(-1)
    depth_S, q_S, log_S, odds_S = _others(preds_S, index, tau)
    depth_T, q_T, log_T, odds_T = _others(preds_T, index, tau)
    bcd, mass, shift = _between(odds_S, odds_T)
    excess = q_S - q_T
    within = _within(excess, q_T, depth_T - depth_S)
    wcd = within.sum(-1, keepdim=True) + (log_S - log_T)
    # The label's own slope is that of the others with q = -1.
    q_or_label = _replaced(q_S, index, -1)
    grad = torch.addcmul(excess * (gamma / tau), shift, q_or_label, value=alpha / tau)
    loss = torch.add(alpha * bcd, wcd, alpha=gamma).sum()
    return loss, grad, bcd, wcd, mass


def _others(
    preds: Tensor, index: Tensor, tau: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return depth, q, log of the sum, and log(P_W / P_S) of W, all but ``index``.

    They are those of :class:`Clusters`. The first two, like ``preds``, are (N, C),
    ``q`` being 0 for the label; the last two, like ``index``, are (N, 1).
    """
    low = torch.finfo(preds.dtype).min
    others = _replaced(preds, index, low)
    peak = others.amax(-1, keepdim=True)
    depth = others.sub_(peak).mul_(1 / (LN2 * tau)).clamp_(min=low)
    weight = exp2(depth)
    total = weight.sum(-1, keepdim=True)
    log_total = total.log()
    margin = peak - preds.gather(-1, index)
    log_odds = _finite(torch.add(log_total, margin, alpha=1 / tau))
    return depth, weight.div_(total), log_total, log_odds


def _replaced(rows: Tensor, index: Tensor, value: float) -> Tensor:
    """Return rows (N, C) with ``value`` at the place ``index``, (N, 1), of each."""
    if is_compiling() and rows.device.type != 'cpu':
        # A scatter is a kernel of its own on a GPU, also in compiled code.
        places = torch.arange(rows.shape[-1], device=rows.device)
        return torch.where(places == index, value, rows)
    return rows.scatter(-1, index, value)


def _between(odds_S: Tensor, odds_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return BCD, P_W of the teacher, and P_W of the student minus that of the teacher.

    The arguments are log(P_W / P_S) of each net; its softplus is -log(P_S).
    """
    cost_S = F.softplus(odds_S, threshold=SOFTPLUS_THRESHOLD)
    cost_T = F.softplus(odds_T, threshold=SOFTPLUS_THRESHOLD)
    mass = odds_T.sigmoid()
    bcd = torch.addcmul(cost_S - cost_T, mass, odds_T - odds_S)
    return bcd, mass, odds_S.sigmoid() - mass


def _within(excess: Tensor, q_T: Tensor, depth_gap: Tensor) -> Tensor:
    """Return addends of KL(q_T || q_S) + log(sum of T) - log(sum of S), (N, C).

    ``excess`` is q_S - q_T. It adds up to 0 except for the rounding of both sums,
    which it cancels, because a small divergence would drown in that rounding.
    """
    return torch.addcmul(excess, q_T, depth_gap, value=LN2)


def _finite(log_odds: Tensor) -> Tensor:
    """Keep log odds finite in float32, so that 0 * inf cannot make a nan of them."""
    limit = torch.finfo(torch.float32).max / 2
    return log_odds.clamp(-limit, limit)


# Autograd


class _KnownGradient(torch.autograd.Function):
    """A loss whose gradient by ``preds_S`` is known already."""

    @staticmethod
    def forward(ctx: Any, preds_S: Tensor, loss: Tensor, grad: Tensor) -> Tensor:
        ctx.save_for_backward(grad)
        return loss.clone()  # because a function may not return what it was given

    @staticmethod
    @once_only
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * grad_loss, None, None


class _DecoupledKL(torch.autograd.Function):
    """Three terms whose weights are not known before the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, preds_S: Tensor, preds_T: Tensor, strong_mask: Tensor, tau: float
    ) -> tuple[Tensor, ...]:
        student, teacher, strong = divide(preds_S, preds_T, strong_mask, tau)
        bcd, scd, wcd, weak_mass, shift = compare(student, teacher, strong)
        ctx.save_for_backward(student.q, teacher.q, strong_mask, shift)
        ctx.tau = tau
        terms = (bcd, scd, wcd, 1 - weak_mass)
        bcd, scd, wcd, mass = (term.squeeze(-1) for term in terms)
        ctx.mark_non_differentiable(mass)
        return bcd, scd, wcd, mass

    @staticmethod
    @once_only
    def backward(
        ctx: Any, grad_bcd: Tensor, grad_scd: Tensor, grad_wcd: Tensor, _: Tensor
    ) -> tuple[Tensor, None, None, None]:
        q_S, q_T, strong_mask, shift = ctx.saved_tensors
        strong = strong_mask.to(q_S.dtype)
        alpha, beta, gamma = (
            grad.unsqueeze(-1) for grad in (grad_bcd, grad_scd, grad_wcd)
        )
        grad = gradient(q_S, q_T, strong, shift, alpha, beta, gamma, ctx.tau)
        return grad, None, None, None


# Checks


def _checked(preds_S: Tensor, preds_T: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Check the arguments; return the scores in the precision to compute in."""
    check_tau(tau)
    return checked_scores(preds_S, preds_T)


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
