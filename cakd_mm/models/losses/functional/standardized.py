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
    distance = scores - scores.mean(-1, keepdim=True)
    degrees = max(scores.shape[-1] - 1, 1)
    # The norm, unlike a square root of a variance, has a gradient where it is 0.
    norm = torch.linalg.vector_norm(distance, dim=-1, keepdim=True)
    return distance / (norm / degrees**0.5 + EPS)
