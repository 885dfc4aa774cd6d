"""The maths of multi-level logit distillation (CVPR 2023): how predictions relate."""

import torch
from torch import Tensor


def probabilities(scores: Tensor, tau: float) -> Tensor:
    """Return softmax(scores / tau), (N, C), for scores of any size."""
    # The highest score is subtracted first, because the division would round it.
    peak = scores.detach().amax(-1, keepdim=True)
    return ((scores - peak) / tau).softmax(-1)


def class_gap(preds_S: Tensor, preds_T: Tensor, tau: float) -> Tensor:
    r"""Return how differently two nets relate the C classes to each other, a scalar.

    P are a net's probabilities of the N images at ``tau``, (N, C):

    .. math:: \frac{1}{C} \, \| P_T^\top P_T - P_S^\top P_S \|^2

    The relations are sums over the images, so that the result grows with N, with up to
    its square.

    Args:
        preds_S (Tensor): The student's logits, (N, C).
        preds_T (Tensor): The teacher's logits, (N, C).
        tau (float): Temperature that divides the logits.
    """
    student, teacher = (probabilities(x, tau).T for x in (preds_S, preds_T))
    return _gap(student, teacher)


def batch_gap(preds_S: Tensor, preds_T: Tensor, tau: float) -> Tensor:
    r"""Return how differently two nets relate the N images to each other, a scalar.

    P are a net's probabilities of the C classes at ``tau``, (N, C):

    .. math:: \frac{1}{N} \, \| P_T P_T^\top - P_S P_S^\top \|^2

    It has N squared relations, so that the result grows with N.

    Args:
        preds_S (Tensor): The student's logits, (N, C).
        preds_T (Tensor): The teacher's logits, (N, C).
        tau (float): Temperature that divides the logits.
    """
    student, teacher = (probabilities(x, tau) for x in (preds_S, preds_T))
    return _gap(student, teacher)


def _gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over rows of squared differences of all rows' products."""
    # Mixed precision would multiply in half precision, where small gaps vanish.
    with torch.autocast(student.device.type, enabled=False):
        gap = teacher @ teacher.T - student @ student.T
    return gap.square().sum() / max(len(student), 1)


def share_up_to_median(values: Tensor) -> Tensor:
    """Return the share of values, (N,), that are not above their median, a scalar.

    That is a half if N is even and no value occurs twice, and 0 if there is none.
    """
    count = len(values)
    if not count:
        return values.sum()
    ordered = values.sort().values
    median = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    return (values <= median).to(values.dtype).mean()
