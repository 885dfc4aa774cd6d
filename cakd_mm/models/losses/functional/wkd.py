"""The maths of WKD (arXiv 2412.08139): transport between classes, moments of maps."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .nkd import log_softmax
from .once import once_only

# Added to each variance under the square root, as in the public code.
EPS = 1e-5


class WassersteinKD(NamedTuple):
    """The label's cross entropy and the distance of the others, each of shape (N,)."""

    target: Tensor
    transport: Tensor


def costs_of_weights(head_weight: Tensor, sharpness: float) -> Tensor:
    r"""Return what it costs to move mass between classes, (C, C), in [0, 1).

    Classes are close if their rows w of the classifier's weight are:

    .. math:: c_{ij} = 1 - \exp(-sharpness \, (1 - \cos(w_i, w_j)))

    A row of zeros has a cosine of 0 to all others. The costs have no gradient. Those
    of a class to itself are 0.

    Args:
        head_weight (Tensor): Weight of the teacher's classifier, (C, D), float32 or
            float64.
        sharpness (float): Positive; the larger, the nearer are all costs to 1.
    """
    rows = nn.functional.normalize(head_weight.detach(), dim=1)
    # Rounding may bring a cosine over 1, for which a cost would be below 0.
    distance = (1 - rows @ rows.T).clamp_(min=0)
    return torch.expm1(-sharpness * distance).neg().fill_diagonal_(0)


def wasserstein_kd(
    preds_S: Tensor,
    preds_T: Tensor,
    labels: Tensor,
    costs: Tensor,
    tau: float = 1.0,
    entropy_weight: float = 0.05,
    iterations: int = 10,
) -> WassersteinKD:
    r"""Compare the label's probability, and move those of the other classes.

    WKD-L, arXiv 2412.08139. p are the probabilities at temperature 1. q are those at
    ``tau`` of the classes other than the label y, which add up to 1. The entropic
    distance is the cost of the plan P that ``iterations`` of Sinkhorn's give:

    .. math::
        target = -p_y^T \log p_y^S, \quad transport = \sum_{ij} P_{ij} c_{ij}, \quad
        P_{ij} = u_i \, e^{-c_{ij} / \eta} \, v_j

    with eta = ``entropy_weight``. An iteration makes the columns of P add up to
    :math:`q^T`, and then its rows to :math:`q^S`. It begins with equal u. The rows are
    exact, therefore, and the columns only in the limit. The gradient is that of all
    iterations. ``transport`` is not 0 for equal nets, because the entropy spreads P.

    u and v are kept as logarithms. All samples share one matrix of costs: 10
    iterations take about 40 products of (N, C) and (C, C), forward and backward
    together. For C = 1000 and N = 256 these are 10 G multiplications, and 2 MB are kept
    for backward.

    Args:
        preds_S (Tensor): The student's logits, (N, C), float32 or float64.
        preds_T (Tensor): The teacher's, of the same shape; get no gradient.
        labels (Tensor): Class indices, int64 (N,).
        costs (Tensor): Costs of moving mass from class i of the student to class j of
            the teacher, (C, C), from 0 to 1. A cost may be as small as it likes;
            ``costs / entropy_weight`` has to stay below 80, because its exponential
            would vanish in float32.
        tau (float): Temperature of the other classes. Defaults to 1.0.
        entropy_weight (float): Factor of the entropy. Defaults to 0.05.
        iterations (int): Number of iterations. Defaults to 10.
    """
    return WassersteinKD(
        *_WassersteinKD.apply(
            preds_S, preds_T, labels, costs, tau, entropy_weight, iterations
        )
    )


class _WassersteinKD(torch.autograd.Function):
    """The gradients are computed in forward, because they are small to keep.

    Those of the iterations would take 60 times the memory of the logits.
    """

    @staticmethod
    def forward(
        ctx: Any,
        preds_S: Tensor,
        preds_T: Tensor,
        labels: Tensor,
        costs: Tensor,
        tau: float,
        entropy_weight: float,
        iterations: int,
    ) -> tuple[Tensor, Tensor]:
        index = labels.unsqueeze(-1)
        scores = torch.stack((preds_S, preds_T))
        log_p = log_softmax(scores, 1.0)
        label = index.expand(2, -1, -1)
        target_S, target_T = log_p.gather(-1, label).unbind()
        mass = target_T.exp()
        log_q = log_softmax(scores.scatter_(-1, label, -math.inf), tau)
        with torch.enable_grad():
            student = log_q[0].requires_grad_()
            transport = _transport(
                student, log_q[1], index, costs, entropy_weight, iterations
            )
        if ctx.needs_input_grad[0]:
            ones = torch.ones_like(transport)
            (slope,) = torch.autograd.grad(transport, student, ones)
            inner = slope - student.exp() * slope.sum(-1, keepdim=True)
            outer = (log_p[0].exp() * mass).scatter_add_(-1, index, -mass)
            ctx.save_for_backward(outer, inner.div_(tau))
        return -(mass * target_S).squeeze(-1), transport.detach()

    @staticmethod
    @once_only
    def backward(
        ctx: Any, grad_target: Tensor, grad_transport: Tensor
    ) -> tuple[Tensor | None, ...]:
        outer, inner = ctx.saved_tensors
        grad = outer * grad_target.unsqueeze(-1)
        grad = grad.addcmul_(inner, grad_transport.unsqueeze(-1))
        return grad, *[None] * 6


def _transport(
    log_S: Tensor,
    log_T: Tensor,
    label: Tensor,
    costs: Tensor,
    entropy_weight: float,
    iterations: int,
) -> Tensor:
    """Return the cost of moving each row of probabilities, (N, C) -> (N,).

    ``label``, (N, 1), is the class that is left out.
    """
    kernel = (-costs / entropy_weight).exp()
    low = torch.finfo(log_S.dtype).min
    log_u = torch.zeros_like(log_S).scatter_(-1, label, low)
    log_v = log_T - _log_product(log_u, kernel)
    for _ in range(iterations - 1):
        log_u = log_S - _log_product(log_v, kernel.T)
        log_v = log_T - _log_product(log_u, kernel)
    # The rows of the plan add up to the student's probabilities after the last step,
    # for which u is not needed.
    v = (log_v - _peak(log_v)).exp()
    mean_costs = (v @ (kernel * costs).T) / (v @ kernel.T)
    return (log_S.exp() * mean_costs).sum(-1)


def _log_product(log_rows: Tensor, kernel: Tensor) -> Tensor:
    """Return log(exp(log_rows) @ kernel), (N, C), whatever the size of the rows."""
    peak = _peak(log_rows)
    return ((log_rows - peak).exp() @ kernel).log() + peak


def _peak(log_rows: Tensor) -> Tensor:
    """Return the highest number of each row, (N, 1), which takes no gradient."""
    return log_rows.detach().amax(-1, keepdim=True)


def pooled_moments(maps: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    r"""Return mean and deviation of every channel in each cell of a grid.

    The cells are those of adaptive average pooling: cell i of g takes the positions
    from floor(i H / g) to ceil((i + 1) H / g), so that cells may overlap. The deviation
    is :math:`\sqrt{var + 10^{-5}}` with the unbiased variance, or a variance of 0 for a
    cell of one position.

    Args:
        maps (Tensor): Feature maps, (N, C, H, W).
        grid (int): Cells along each side.

    Returns:
        tuple[Tensor, Tensor]: Means and deviations, each (N, C, grid * grid).
    """
    height, width = maps.shape[2:]
    means, variances = [], []
    for rows in _cells(height, grid):
        for columns in _cells(width, grid):
            cell = maps[:, :, rows, columns]
            positions = cell.shape[2] * cell.shape[3]
            mean = cell.mean((2, 3), keepdim=True)
            squares = (cell - mean).square().sum((2, 3))
            means.append(mean.flatten(1))
            variances.append(squares / max(positions - 1, 1))
    return torch.stack(means, -1), (torch.stack(variances, -1) + EPS).sqrt()


def _cells(length: int, count: int) -> list[slice]:
    return [
        slice(i * length // count, -(-(i + 1) * length // count)) for i in range(count)
    ]


def cosine_decay(epochs: int, start: int, end: int) -> float:
    """Return the factor of a weight in the ``epochs``-th epoch, counted from 1.

    It is 1 up to epoch ``start``, and falls along half a cosine to 0 in ``end``.
    """
    share = min(max((epochs - start) / (end - start), 0.0), 1.0)
    return (1 + math.cos(math.pi * share)) / 2
