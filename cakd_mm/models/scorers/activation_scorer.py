"""Strong channels are those of large magnitude."""

from mmrazor.registry import MODELS
from torch import Tensor

from .base_scorer import BaseScorer


@MODELS.register_module()
class ActivationScorer(BaseScorer):
    """A channel's score is the mean magnitude of its activation.

    This is the L1 criterion of filter pruning (Li et al. 2017, arXiv:1608.08710).
    """

    meaning = 'mean magnitude of the activation'

    def forward(
        self,
        feature: Tensor,
        gt_labels: Tensor | None = None,
        head_weight: Tensor | None = None,
    ) -> Tensor:
        """Return the mean magnitude of every channel, (N, C)."""
        magnitude = feature.abs()
        return magnitude.mean(-1) if feature.dim() == 3 else magnitude
