"""Strong clusters of the label and of the classes that are ranked next to it."""

import torch
from torch import Tensor


def label_cluster(ranking: Tensor, labels: Tensor, count: int | Tensor) -> Tensor:
    """Mark each row's label and its other classes that are ranked highest.

    Args:
        ranking (Tensor): A number of each class, the higher the likelier, (N, C).
        labels (Tensor): Class indices, int64, (N,), of the classes there are.
        count (int | Tensor): How many classes each cluster has, the label included; a
            tensor, int64 (N,), says so for each row.

    Returns:
        Tensor: bool, (N, C). Of equally ranked classes the first ones are taken.
    """
    order = _label_first(ranking, labels)
    places = torch.arange(ranking.shape[-1], device=ranking.device)
    counts = count.unsqueeze(-1) if isinstance(count, Tensor) else count
    among = (places < counts).expand_as(order)
    return torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order, among)


def counts_by_mass(preds: Tensor, labels: Tensor, mass: float, tau: float) -> Tensor:
    r"""Return how many classes it takes to hold a share of the probability.

    The label is the first of them, and the other classes follow by their probability
    :math:`softmax(z / \tau)`. One class at least is left out, so that the weak cluster
    is not empty.

    Args:
        preds (Tensor): Logits, (N, C).
        labels (Tensor): Class indices, int64, (N,).
        mass (float): What the classes hold together at least, in (0, 1).
        tau (float): Temperature that divides the logits.

    Returns:
        Tensor: From 1 to C - 1, int64, (N,).
    """
    shares = (preds / tau).softmax(-1)
    held = shares.gather(-1, _label_first(preds, labels)).cumsum(-1)
    # A class is needed if all before it do not hold enough.
    counts = 1 + (held < mass).sum(-1)
    return counts.clamp(max=max(preds.shape[-1] - 1, 1))


def _label_first(ranking: Tensor, labels: Tensor) -> Tensor:
    """Return each row's classes, the label first, then downwards, int64 (N, C)."""
    order = ranking.argsort(dim=-1, descending=True, stable=True)
    # The sort is stable, so that all classes but the label keep their order.
    others = (order != labels.unsqueeze(-1)).to(torch.uint8)
    return order.gather(-1, others.argsort(dim=-1, stable=True))
