"""The maths of ReviewKD (arXiv 2104.09044): maps compared at several sizes."""

from collections.abc import Sequence

from torch import Tensor

from ...averages import averaged
from ..map_pairs import paired_maps
from .cakd import batch_mean

# Sizes to which a map is averaged, if they are less than its height.
SIZES = (4, 2, 1)


def context_of_levels(
    preds_S: Sequence[Tensor], preds_T: Sequence[Tensor]
) -> list[Tensor]:
    r"""Return the hierarchical context distance of every level, scalars.

    ReviewKD, arXiv 2104.09044, section 3.3. A_l is the adaptive average to l x l; l
    is 4, 2 and 1, as far as it is less than the height:

    .. math:: \frac{1}{1 + \sum_k 2^{-k}} \left( MSE(S, T)
              + \sum_k 2^{-k} MSE(A_{l_k} S, A_{l_k} T) \right), \quad k = 1, 2, ...

    where MSE is the mean over all elements. Arguments and errors are those of
    :func:`paired_maps`.
    """
    return [_context(ours - theirs) for ours, theirs in paired_maps(preds_S, preds_T)]


def _context(gap: Tensor) -> Tensor:
    """Return the distance, a scalar, from the difference of two maps (N, C, H, W).

    The difference suffices, because an average is linear.
    """
    total, weight, weights = batch_mean(gap.square()), 1.0, 1.0
    for size in SIZES:
        if size < gap.shape[2]:
            weight /= 2
            weights += weight
            pooled = averaged(gap, (size, size))
            total = total + weight * batch_mean(pooled.square())
    return total / weights
