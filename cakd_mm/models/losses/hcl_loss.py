"""The loss of ReviewKD: maps compared at several sizes."""

from collections.abc import Sequence

import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor, nn

from .checks import check_number
from .feature_lists import level_terms, paired_maps
from .functional import batch_mean

# Sizes that a map is averaged down to, if they are less than its height.
SIZES = (4, 2, 1)


def context_of_levels(
    preds_S: Sequence[Tensor], preds_T: Sequence[Tensor]
) -> list[Tensor]:
    r"""Return the hierarchical context distance of every level, scalars.

    ReviewKD, arXiv 2104.09044, section 3.3. With A_l the adaptive average to l x l,
    for the l of 4, 2, 1 that are less than the height,

    .. math:: \frac{1}{1 + \sum_k 2^{-k}} \left( MSE(S, T)
              + \sum_k 2^{-k} MSE(A_{l_k} S, A_{l_k} T) \right), \quad k = 1, 2, ...

    where MSE is the mean over all elements.

    Args:
        preds_S (Sequence[Tensor]): The student's maps (N, C, H, W), or (N, C).
        preds_T (Sequence[Tensor]): The teacher's, of the same shapes; no gradient.

    Raises:
        TypeError: an argument is no list of float tensors.
        ValueError: the lists or shapes differ.
    """
    return [_context(ours - theirs) for ours, theirs in paired_maps(preds_S, preds_T)]


def hierarchical_context(
    preds_S: Sequence[Tensor], preds_T: Sequence[Tensor]
) -> Tensor:
    """Return the sum of :func:`context_of_levels`, with its arguments and errors."""
    return sum(context_of_levels(preds_S, preds_T))


def _context(gap: Tensor) -> Tensor:
    """Average is linear, so that of the difference will do: (N, C, H, W) -> ()."""
    total, weight, weights = batch_mean(gap.square()), 1.0, 1.0
    for size in SIZES:
        if size < gap.shape[2]:
            weight /= 2
            weights += weight
            pooled = F.adaptive_avg_pool2d(gap, size)
            total = total + weight * batch_mean(pooled.square())
    return total / weights


@MODELS.register_module()
class HCLLoss(nn.Module):
    """Hierarchical context loss between lists of maps.

    "Distilling Knowledge via Knowledge Review", arXiv 2104.09044: the student's
    maps come fused from a :class:`FusionConnector`, the teacher's as they are, see
    :func:`context_of_levels`. The levels add up. ``terms`` holds the last step's
    value of each, ``level_1`` of the first, without ``loss_weight``.

    Args:
        loss_weight (float): Factor of the loss. Defaults to 1.0.

    Raises:
        ValueError: ``loss_weight`` is negative or not finite.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        check_number(self, 'loss_weight', loss_weight)
        self.loss_weight = loss_weight
        self._levels: list[Tensor] = []

    def forward(self, preds_S: Sequence[Tensor], preds_T: Sequence[Tensor]) -> Tensor:
        """Compute the loss.

        Args:
            preds_S (Sequence[Tensor]): The student's maps (N, C, H, W) or vectors
                (N, C), in the order of the teacher's.
            preds_T (Sequence[Tensor]): The teacher's, of the same shapes; get no
                gradient.

        Returns:
            Tensor: The loss, a float32 (or float64) scalar.

        Raises:
            TypeError: an argument is no list of float tensors.
            ValueError: the lists or shapes differ.
        """
        levels = context_of_levels(preds_S, preds_T)
        self._levels = [level.detach() for level in levels]
        return self.loss_weight * sum(levels)

    @property
    def terms(self) -> dict[str, Tensor]:
        """The last step's value of every level, detached scalars; {} before it."""
        return level_terms(self._levels)

    def extra_repr(self) -> str:
        """Show the settings in a printed model."""
        return f'loss_weight={self.loss_weight}'
