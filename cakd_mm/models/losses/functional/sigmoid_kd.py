"""The maths of a distillation that compares each class by itself."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...checks import check_tau, checked_scores
from .once import once_only


def binary_kl(preds_S: Tensor, preds_T: Tensor, tau: float = 1.0) -> Tensor:
    r"""Compare the probabilities of every class, each against its complement.

    With :math:`p = sigmoid(z^T / \tau)` and :math:`q = sigmoid(z^S / \tau)`

    .. math:: KL = p \log(p / q) + (1 - p) \log((1 - p) / (1 - q))

    Unlike those of a softmax, the probabilities of an image do not add up to 1. They
    change where all of its logits rise together.

    Args:
        preds_S (Tensor): The student's logits, (N, C).
        preds_T (Tensor): The teacher's logits, (N, C); get no gradient.
        tau (float): Temperature that divides the logits, from 1e-6 to 1e6. Defaults to
            1.0.

    Returns:
        Tensor: (N, C), in nats, without the factor ``tau**2``.

    Raises:
        TypeError: logits are no float tensors, or ``tau`` is no number.
        ValueError: shapes do not fit, or ``tau`` is out of range.
    """
    check_tau(tau)
    preds_S, preds_T = checked_scores(preds_S, preds_T)
    return _BinaryKL.apply(preds_S, preds_T, tau)


class _BinaryKL(torch.autograd.Function):
    """The gradient is known: (q - p) / tau."""

    @staticmethod
    def forward(ctx: Any, preds_S: Tensor, preds_T: Tensor, tau: float) -> Tensor:
        student, teacher = preds_S / tau, preds_T / tau
        if ctx.needs_input_grad[0]:
            slope = student.sigmoid().sub_(teacher.sigmoid()).div_(tau)
            ctx.save_for_backward(slope)
        # The divergence does not change if both logits change their signs. Where the
        # teacher's is negative, a small one is not lost in the rounding of others.
        sign = 1 - 2 * (teacher > 0).to(teacher.dtype)
        student, teacher = sign * student, sign * teacher
        log_off_S, log_off_T = F.logsigmoid(-student), F.logsigmoid(-teacher)
        return log_off_T - log_off_S + teacher.sigmoid() * (teacher - student)

    @staticmethod
    @once_only
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * grad, None, None
