"""The maths of WTTM (arXiv 2402.11148): the power transform of a teacher."""

from torch import Tensor

from ...checks import check_tau
from .nkd import log_softmax


def power_sum(scores: Tensor, tau: float) -> Tensor:
    r"""Return :math:`\sum_i p_i^{1 / \tau}` of p = softmax(scores), (N,).

    For C classes it is from 1, if one class has all mass, to :math:`C^{1 - 1 / \tau}`,
    if all have the same, for ``tau`` from 1 on. Below 1 it is from that number to 1.
    It is what the probabilities to the power of ``1 / tau`` are divided by to become
    softmax(scores / tau). It has no gradient.

    Args:
        scores (Tensor): Logits, float32 or float64, (N, C).
        tau (float): Temperature, from 1e-6 to 1e6.

    Raises:
        TypeError: ``tau`` is no number.
        ValueError: ``tau`` is out of range.
    """
    check_tau(tau)
    return (log_softmax(scores.detach(), 1.0) / tau).logsumexp(-1).exp()
