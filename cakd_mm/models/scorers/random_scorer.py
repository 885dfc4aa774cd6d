"""The control, whose clusters mean nothing."""

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from .base_scorer import BaseScorer


@MODELS.register_module()
class RandomScorer(BaseScorer):
    """Draws every score anew, for each sample and step.

    The gain of any other scorer has to be measured against this one. The scores come
    from torch's global generator on the feature's device, which
    ``ResumableTrainLoop`` seeds for each step.
    """

    meaning = 'random'

    def forward(
        self,
        feature: Tensor,
        gt_labels: Tensor | None = None,
        head_weight: Tensor | None = None,
    ) -> Tensor:
        """Return uniform scores, (N, C)."""
        return torch.rand(feature.shape[:2], device=feature.device)
