"""The maths of NKD (arXiv 2303.13005) and of how sure a teacher is.

Logarithms of probabilities are computed from each row's highest score downwards, so
that no score up to 1e12 makes a row inf or nan. Half precision is computed and returned
in float32.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...checks import check_tau, checked_scores
from .once import once_only


class NormalizedKD(NamedTuple):
    """The two cross entropies of every row, each of shape (N,)."""

    target: Tensor
    others: Tensor


def normalized_kd(
    preds_S: Tensor, preds_T: Tensor, labels: Tensor, tau: float = 1.0
) -> NormalizedKD:
    r"""Compare the label's probability, and those of the other classes by themselves.

    NKD, arXiv 2303.13005. p are the probabilities at temperature 1. q are those at
    ``tau`` of the classes other than the label y, which add up to 1:

    .. math::
        target = -p_y^T \log p_y^S, \quad others = -\sum_{i \ne y} q_i^T \log q_i^S

    Both are cross entropies, which are not 0 for equal nets; only the gradient of
    ``others`` is. ``others`` does not carry the factor ``tau**2``, and is 0 if there
    is one class only.

    The logits are (N, C), and the teacher's get no gradient; ``labels`` is int64 (N,).
    Both results are in nats.

    Raises:
        TypeError: scores are no float tensors, or ``tau`` is no number.
        ValueError: shapes differ, or ``tau`` is not from 1e-6 to 1e6.
    """
    check_tau(tau)
    preds_S, preds_T = checked_scores(preds_S, preds_T)
    return NormalizedKD(*_NormalizedKD.apply(preds_S, preds_T, labels, tau))


def normalized_entropy(scores: Tensor, tau: float = 1.0) -> Tensor:
    """Return the entropy of softmax(scores / tau) in units of log C, (N,).

    It is 0 for all mass on one class, 1 for equal classes, and has no gradient. For
    C = 1 it is 0. ``scores`` is (N, C), float32 or float64.
    """
    log_p = log_softmax(scores.detach(), tau)
    return (log_p.exp() * log_p).sum(-1) / -(math.log(scores.shape[-1]) or 1.0)


def log_softmax(scores: Tensor, tau: float) -> Tensor:
    """Return log softmax(scores / tau) over the last dimension, never -inf.

    A score of -inf counts as the lowest number.
    """
    low = torch.finfo(scores.dtype).min
    peak = scores.amax(-1, keepdim=True).clamp_(min=low)
    return ((scores - peak) / tau).clamp_(min=low).log_softmax(-1)


class _NormalizedKD(torch.autograd.Function):
    """The gradients are known: p_y^T (p^S - [i = y]), and (q^S - q^T) / tau."""

    @staticmethod
    def forward(
        ctx: Any, preds_S: Tensor, preds_T: Tensor, labels: Tensor, tau: float
    ) -> tuple[Tensor, Tensor]:
        index = labels.unsqueeze(-1)
        scores = torch.stack((preds_S, preds_T))
        log_p = log_softmax(scores, 1.0)
        label = index.expand(2, -1, -1)
        target_S, target_T = log_p.gather(-1, label).unbind()
        mass = target_T.exp()
        log_q = log_softmax(scores.scatter_(-1, label, -math.inf), tau)
        student, teacher = log_q.exp().unbind()
        others = -(teacher * log_q[0]).sum(-1)
        if ctx.needs_input_grad[0]:
            slope = (log_p[0].exp() * mass).scatter_add_(-1, index, -mass)
            ctx.save_for_backward(slope, (student - teacher).div_(tau))
        return -(mass * target_S).squeeze(-1), others

    @staticmethod
    @once_only
    def backward(
        ctx: Any, grad_target: Tensor, grad_others: Tensor
    ) -> tuple[Tensor, None, None, None]:
        target, others = ctx.saved_tensors
        grad = target * grad_target.unsqueeze(-1)
        return grad.addcmul_(others, grad_others.unsqueeze(-1)), None, None, None
