"""Logit standardisation (arXiv 2403.01427): scores without their level and spread."""

import torch
from torch import Tensor

# The public code adds it to the deviation. Equal scores then become 0.
EPS = 1e-7


def standardized(scores: Tensor) -> Tensor:
    r"""Return each row of scores minus its mean, over its standard deviation.

    "Logit Standardization in Knowledge Distillation", arXiv 2403.01427, Eq. 13:

    .. math:: z'_i = \frac{z_i - \bar z}{\sigma(z)}, \quad
              \sigma(z)^2 = \frac{1}{C - 1} \sum_i (z_i - \bar z)^2

    The paper's formula divides by C, its public code by C - 1; the published numbers
    come from the code. Rows of equal scores, and a single class, become 0 and have a
    gradient of 0. Scores up to 1e12 in absolute value give finite numbers.

    Args:
        scores (Tensor): Logits, float32 or float64, (N, C).
    """
    # The distances from the peak are exactly 0 in a row of equal scores. The mean of
    # the scores themselves would be rounded, and what is left would be divided by
    # next to nothing.
    depth = scores - scores.detach().amax(-1, keepdim=True)
    distance = depth - depth.mean(-1, keepdim=True)
    degrees = max(scores.shape[-1] - 1, 1)
    # The norm, unlike a square root of a variance, has a gradient where it is 0.
    norm = torch.linalg.vector_norm(distance, dim=-1, keepdim=True)
    # Without the mask, equal scores would have the slope 1 / EPS: a student whose last
    # layer begins with zeros would be thrown out of range by its first step.
    distance = distance.masked_fill(norm == 0, 0)
    return distance / (norm / degrees**0.5 + EPS)
