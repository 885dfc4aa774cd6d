"""How hard each divergence of CAKD pulls at the student's scores."""

import torch
from torch import Tensor

from .cakd import compare, divide


def mean_square_gradients(
    preds_S: Tensor, preds_T: Tensor, strong_mask: Tensor, tau: float
) -> Tensor:
    """Return the mean over the rows of each gradient's squared length, (3,).

    The gradients are those of BCD, SCD and WCD, in this order, by the student's scores
    of a row. The arguments are those of :func:`weighted_kl`, checked and detached.
    """
    student, teacher, strong = divide(preds_S, preds_T, strong_mask, tau)
    *_, shift = compare(student, teacher, strong)
    between = (shift * student.q).square().sum(-1)
    excess = (student.q - teacher.q).square()
    within_S = (excess * strong).sum(-1)
    within_W = (excess * (1 - strong)).sum(-1)
    rows = torch.stack((between, within_S, within_W))
    return rows.sum(-1) / (max(len(preds_S), 1) * tau**2)
