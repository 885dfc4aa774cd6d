"""The control, whose clusters mean nothing."""

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from ..uniform_bits import uniform_bits
from .base_scorer import BaseScorer


@MODELS.register_module()
class RandomScorer(BaseScorer):
    """Draws every score anew, for each image and step.

    The gain of any other scorer has to be measured against this one. The scores of an
    image follow from a seed, the step and ``images`` alone, so that they are the
    same on any number of ranks and any device. The seed is drawn from torch's
    generator when the scorer is built. Seed and step are buffers, so that a resumed
    run goes on as if it had not been interrupted.
    """

    meaning = 'random'
    by_image = True
    seed: Tensor
    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('seed', torch.randint(2**62, ()))
        self.register_buffer('steps', torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        feature: Tensor,
        gt_labels: Tensor | None = None,
        head_weight: Tensor | None = None,
    ) -> Tensor:
        """Return uniform scores in [0, 1), (N, C)."""
        rows, channels = feature.shape[:2]
        images = self.images
        if images is None:
            images = torch.arange(rows, device=feature.device)
        # An image may have several rows.
        each = rows // max(len(images), 1)
        within = torch.arange(each, device=feature.device)
        numbers = (images.unsqueeze(1) * each + within).flatten()
        bits = uniform_bits(numbers, channels, self.seed, self.steps)
        if self.training:
            self.steps.add_(1)
        # The upper 24 of 63 bits, as many as float32 holds.
        return (bits >> 39).float() * 2.0**-24
