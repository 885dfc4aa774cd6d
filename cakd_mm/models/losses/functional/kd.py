"""The maths of KD (arXiv 1503.02531)."""

import torch
from torch import Tensor

from .cakd import decoupled_kl


def softened_kl(preds_S: Tensor, preds_T: Tensor, tau: float = 1.0) -> Tensor:
    r"""Return the divergence of every row, (N,), without the factor ``tau**2``.

    .. math:: KL(softmax(z^T / \tau) \,||\, softmax(z^S / \tau))

    It is in nats, and in float32 unless a net's logits are float64. The logits are
    (N, C), and the teacher's get no gradient.

    Raises:
        TypeError: logits are no float tensors, or ``tau`` is no number.
        ValueError: shapes differ, or ``tau`` is not from 1e-6 to 1e6.
    """
    # If no class is strong, the divergence of the weak ones is that of all.
    strong = torch.zeros_like(preds_S, dtype=torch.bool)
    return decoupled_kl(preds_S, preds_T, strong, tau).wcd
