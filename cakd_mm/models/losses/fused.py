"""The maths of CAKD as torch.compile takes it best: each a loss with its gradient.

Written for few passes over rows, nothing in place. A row's own class is scattered
over: to compare every class with it takes a CPU longer than the exponentials.
``functional`` has the twins that run eagerly, whose comments say why what is
computed how.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def single_label(
    preds_S: Tensor,
    preds_T: Tensor,
    labels: Tensor,
    tau: float,
    alpha: float,
    gamma: float,
) -> tuple[Tensor, ...]:
    """Return the loss of one label per row, its gradient, and ``LabelTerms``."""
    rows = max(len(labels), 1)
    index = labels.unsqueeze(-1)
    depth_S, q_S, log_S, peak_S = _others(preds_S, index, tau)
    depth_T, q_T, log_T, peak_T = _others(preds_T, index, tau)
    odds_S = _finite(log_S + (peak_S - preds_S.gather(-1, index)) / tau)  # W to S
    odds_T = _finite(log_T + (peak_T - preds_T.gather(-1, index)) / tau)
    weak_S, weak_T = odds_S.sigmoid(), odds_T.sigmoid()
    cost_S = F.softplus(odds_S, threshold=40) - weak_T * odds_S
    cost_T = F.softplus(odds_T, threshold=40) - weak_T * odds_T
    excess = q_S - q_T
    within = (excess + q_T * (depth_T - depth_S)).sum(-1, keepdim=True)
    wcd = within + (log_S - log_T)
    loss = (alpha / rows * (cost_S - cost_T) + gamma / rows * wcd).sum()
    slope = alpha / (tau * rows) * (weak_S - weak_T)
    grad = gamma / (tau * rows) * excess + slope * q_S
    grad = grad.scatter(-1, index, -slope)
    log_total, cost = torch.stack((log_S, log_T)), torch.stack((cost_S, cost_T))
    return loss, grad, log_total, cost, within, weak_T


def clusters(
    preds_S: Tensor,
    preds_T: Tensor,
    mask: Tensor,
    tau: float,
    alpha: float,
    beta: float,
    gamma: float | Tensor,
) -> tuple[Tensor, ...]:
    """Return the weighted sum of every row, its gradient, three terms and a mass.

    ``mask``, bool, is True where a class is in S.
    """
    depth_S, q_S, logs_S, odds_S = _divided(preds_S, mask, tau)
    depth_T, q_T, logs_T, odds_T = _divided(preds_T, mask, tau)
    strong_S, strong_T = odds_S.sigmoid(), odds_T.sigmoid()
    bcd = F.softplus(odds_S, threshold=40) - F.softplus(odds_T, threshold=40)
    bcd = (bcd - strong_T * (odds_S - odds_T)).to(q_S.dtype)
    excess = q_S - q_T
    within = excess + q_T * (depth_T - depth_S)
    scd, wcd = (
        part.sum(-1, keepdim=True) + (log_S - log_T).to(q_S.dtype)
        for part, log_S, log_T in zip(_parts(within, mask), logs_S, logs_T, strict=True)
    )
    shift = alpha * (strong_S - strong_T).to(q_S.dtype)
    inside = torch.where(mask, beta, gamma) * excess
    grad = (inside + torch.where(mask, shift, -shift) * q_S) * (1 / tau)
    value = alpha * bcd + beta * scd + gamma * wcd
    terms = (value, bcd, scd, wcd, strong_T.to(q_S.dtype))
    value, *terms = (term.squeeze(-1) for term in terms)
    return value, grad, *terms


def _others(
    preds: Tensor, index: Tensor, tau: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return depths below the peak, probabilities, log of the sum, and the peak.

    All are those within the classes that are not the row's own, ``index``, (N, 1).
    """
    low = torch.finfo(preds.dtype).min
    scores = preds.scatter(-1, index, low)
    peak = scores.amax(-1, keepdim=True)
    depth = ((scores - peak) * (1 / tau)).clamp(min=low)
    weight = depth.exp()
    total = weight.sum(-1, keepdim=True)
    return depth, weight * total.reciprocal(), total.log(), peak


def _divided(
    preds: Tensor, mask: Tensor, tau: float
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:
    """Return depths below the own cluster's peak, probabilities within it, the log of
    each cluster's sum, and log(P_S / P_W), these in float64.
    """
    low = torch.finfo(preds.dtype).min
    peaks = [
        part.amax(-1, keepdim=True).clamp(min=low)
        for part in _parts(preds, mask, -torch.inf)
    ]
    depth = ((preds - torch.where(mask, *peaks)) * (1 / tau)).clamp(min=low)
    weight = depth.exp()
    # the peak weighs 1, so only a sum over no members is below that
    totals = [part.sum(-1, keepdim=True).clamp(min=1) for part in _parts(weight, mask)]
    log_S, log_W = (total.double().log() for total in totals)
    odds = _finite(log_S - log_W + (peaks[0] - peaks[1]) / tau)
    shares = (total.reciprocal() for total in totals)  # dividing takes longer
    return depth, weight * torch.where(mask, *shares), (log_S, log_W), odds


def _parts(rows: Tensor, mask: Tensor, empty: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return what belongs to S and to W, each with the other's places emptied."""
    return torch.where(mask, rows, empty), torch.where(mask, empty, rows)


def _finite(odds: Tensor) -> Tensor:
    """Keep log odds within float32, or float64 where all is in that."""
    limit = torch.finfo(torch.float32).max / 2
    return odds.clamp(-limit, limit)
