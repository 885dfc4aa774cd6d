"""Whether two functions of images give equal scores."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# The largest difference, as a share of the largest score.
TOLERANCE = 1e-5
Scores = Callable[[Tensor], Tensor]


@torch.no_grad()
def largest_difference(
    found: Scores, expected: Scores, batches: Sequence[Tensor]
) -> float:
    """Return by how much scores differ, as a share of the largest score.

    Args:
        found (Callable): Returns scores, (N, K), of images, (N, C, H, W).
        expected (Callable): The same.
        batches (Sequence[Tensor]): The images.

    Returns:
        float: nan if a score is nan; inf if the numbers of scores differ, or if scores
            are not 0 that all have to be.
    """
    differences = [0.0]
    for images in batches:
        ours, theirs = found(images), expected(images)
        if ours.shape != theirs.shape:
            return math.inf
        if not torch.equal(ours, theirs):
            differences.append(float((ours - theirs).abs().max() / theirs.abs().max()))
    # Of several numbers `max` would pass over nan.
    return math.nan if any(map(math.isnan, differences)) else max(differences)
