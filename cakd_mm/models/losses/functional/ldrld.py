"""The maths of LDRLD (arXiv 2507.15911): pairs among the likeliest classes.

No score up to 1e12 makes a value or a gradient inf or nan. Half precision is computed
and returned in float32.
"""

import torch
from torch import Tensor

from ...checks import check_tau, checked_scores
from .sigmoid_kd import binary_kl

# The paper's adaptive decay weight is 2 / (1.5 + d) at a distance of d ranks, before
# the decay. Both numbers are those of the public code.
SCALE, OFFSET = 2.0, 1.5


def likeliest_classes(preds: Tensor, count: int) -> Tensor:
    """Return the ``count`` classes of each row with the highest scores, int64.

    The highest comes first. ``preds`` is (N, C), the result is (N, count).

    Raises:
        ValueError: there are fewer than ``count`` classes.
    """
    if count > preds.shape[-1]:
        raise ValueError(
            f'top_classes is {count}, but there are {preds.shape[-1]} classes: set '
            'top_classes in the config of the loss to an integer from 2 to '
            f'{preds.shape[-1]}.'
        )
    return preds.detach().topk(count).indices


def ranked_pairs_kl(
    preds_S: Tensor,
    preds_T: Tensor,
    ranked: Tensor,
    tau: float = 4.0,
    decay: float = 0.05,
) -> Tensor:
    r"""Compare the two probabilities within every pair of ranked classes.

    With :math:`c_1, ..., c_K` the classes of a row in the order of their ranks, and
    p(i, j) the softmax of the scores of :math:`c_i` and :math:`c_j` alone at ``tau``,

    .. math::
        \sum_{i < j} w_{ij} \, KL(p^T(i, j) \,||\, p^S(i, j)), \quad
        w_{ij} = \frac{2}{1.5 + j - i} \, e^{-decay \, (i + j)}

    Args:
        preds_S (Tensor): The student's logits, (N, C).
        preds_T (Tensor): The teacher's logits, (N, C); get no gradient.
        ranked (Tensor): Class indices, int64, (N, K), the first rank first.
        tau (float): Temperature that divides the logits, from 1e-6 to 1e6. Defaults to
            4.0.
        decay (float): How fast the weight falls with the sum of both ranks. Defaults
            to 0.05.

    Returns:
        Tensor: (N,), in nats, without the factor ``tau**2``. It is 0 for K = 1.

    Raises:
        TypeError: logits are no float tensors, or ``tau`` is no number.
        ValueError: shapes differ, or ``tau`` is out of range.
    """
    check_tau(tau)
    preds_S, preds_T = checked_scores(preds_S, preds_T)
    count = ranked.shape[-1]
    first, second = torch.triu_indices(count, count, 1, device=preds_S.device)
    # A softmax over two classes is a sigmoid of the difference of their scores.
    gap_S, gap_T = (
        scores.index_select(1, first) - scores.index_select(1, second)
        for scores in (preds.gather(1, ranked) for preds in (preds_S, preds_T))
    )
    dtype = gap_S.dtype
    weights = pair_weights(first.to(dtype) + 1, second.to(dtype) + 1, decay)
    return (weights * binary_kl(gap_S, gap_T, tau)).sum(-1)


def pair_weights(first: Tensor, second: Tensor, decay: float) -> Tensor:
    """Return the weight of pairs of ranks, which count from 1.

    It falls with the distance of both ranks, and with their sum.
    """
    nearness = SCALE / (OFFSET + (second - first).abs())
    return nearness * torch.exp(-decay * (first + second))
