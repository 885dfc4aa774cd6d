"""WKD-F: a Wasserstein distance between the Gaussians of feature maps."""

from collections.abc import Sequence

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from ..checks import check_number, is_count
from ..term_axis import TermAxis
from .decaying_loss import DECAY_TERM, DecayingLoss
from .feature_lists import FeatureListLoss
from .functional import batch_mean
from .functional.wkd import pooled_moments
from .map_pairs import paired_maps


@MODELS.register_module()
class WKDFeatureLoss(DecayingLoss, FeatureListLoss):
    r"""Wasserstein distance between feature maps, taken as Gaussians.

    "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge
    Distillation", arXiv 2412.08139, WKD-F. In each of ``grid**2`` cells of a map every
    channel has a mean m and a deviation s, see :func:`pooled_moments`. The squared
    Wasserstein distance of two Gaussians with independent channels is the sum of both
    terms, of which the first has a weight:

    .. math::
        mean = \sum_c (m_c^S - m_c^T)^2, \quad
        deviation = \sum_c (s_c^S - s_c^T)^2, \quad
        L = d \, mean(mean\_weight \cdot mean + deviation)

    with the mean over the samples of the batch and the cells, and the sum over the
    levels of the lists. d is 1, or falls along half a cosine from 1 to 0 between the
    epochs ``decay_from`` and ``decay_to``, which come from :class:`DistillEpochHook`.

    ``terms`` holds the last step's ``mean`` and ``deviation`` without weights, added up
    over the levels, ``level_1`` ..., the unweighted sum of both for each level, and
    ``decay``, which is d, if it falls. Features up to 1e12 give finite numbers, see
    :class:`DistillLoss`.

    Args:
        mean_weight (float): Weight of the means' distance. Defaults to 2.0.
        grid (int): Cells along each side of a map. Defaults to 1, the whole map.
        decay_from (int, optional): Epochs with the whole weight. Defaults to None,
            all of them.
        decay_to (int, optional): The epoch, counted from 1, in which the weight has
            come to 0, normally the last. Defaults to None.
        loss_weight (float): Factor of the loss. Defaults to 0.02.

    Raises:
        ValueError: a number is out of range.
    """

    term_labels = {
        'mean': (TermAxis.SQUARED, 'mean: of the means of the channels'),
        'deviation': (TermAxis.SQUARED, 'deviation: of their deviations'),
        **FeatureListLoss.term_labels,
        **DECAY_TERM,
    }

    def __init__(
        self,
        mean_weight: float = 2.0,
        grid: int = 1,
        decay_from: int | None = None,
        decay_to: int | None = None,
        loss_weight: float = 0.02,
    ) -> None:
        super().__init__(loss_weight)
        check_number(self, 'mean_weight', mean_weight)
        if not is_count(grid):
            raise ValueError(
                f'grid must be a positive integer, got {grid!r}: set grid in the '
                'config of WKDFeatureLoss; 1 takes the whole map.'
            )
        self.set_decay(decay_from, decay_to)
        self.mean_weight = mean_weight
        self.grid = grid

    def forward(self, preds_S: Sequence[Tensor], preds_T: Sequence[Tensor]) -> Tensor:
        """Return the loss, a float32 (or float64) scalar.

        Args:
            preds_S (Sequence[Tensor]): The student's maps (N, C, H, W) or vectors
                (N, C), brought to the teacher's shapes by connectors.
            preds_T (Sequence[Tensor]): The teacher's, of the same shapes; get no
                gradient.

        Raises:
            TypeError: an argument is no list of float tensors.
            ValueError: the lists or shapes differ, or a step of training has no
                epoch for the decay.
        """
        gaps = []
        for pair in paired_maps(preds_S, preds_T):
            ours, theirs = (pooled_moments(maps, self.grid) for maps in pair)
            gap = torch.stack(ours) - torch.stack(theirs)
            gaps.append(gap.square().sum(2).mean(-1))
        # Of every level, (levels, N).
        means, deviations = torch.stack(gaps, 1)
        mean, deviation = means.sum(0), deviations.sum(0)
        levels = {
            f'level_{i}': batch_mean(level)
            for i, level in enumerate(means + deviations, 1)
        }
        terms = levels | self.decay_term(mean)
        self.log_terms(mean=mean, deviation=deviation, **terms)
        weight = self.loss_weight * self.decay
        return weight * batch_mean(self.mean_weight * mean + deviation)
