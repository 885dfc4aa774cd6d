"""Numbers by which a scorer tells images apart, on any number of ranks."""

import torch
from mmengine.dist import get_rank, get_world_size
from torch import Tensor

from ...utils.transfer import send
from .base_scorer import BaseScorer


def tell_images(scorer: BaseScorer, indices: Tensor | None, scores: Tensor) -> None:
    """Give a scorer that tells images apart the numbers of a batch's images.

    Args:
        scorer (BaseScorer): Whose ``images`` are set, on the device of ``scores``.
        indices (Tensor, optional): As in :func:`image_numbers`.
        scores (Tensor): What is scored, with one entry for each image.
    """
    if scorer.by_image:
        scorer.images = send(image_numbers(indices, len(scores)), scores.device)


def image_numbers(indices: Tensor | None, count: int) -> Tensor:
    """Return a number of each image of a batch, int64 (count,), on the host.

    Args:
        indices (Tensor, optional): Places of the images in the training set, if they
            are known. They are taken if there is one for each image.
        count (int): How many images this rank has. Their place in the batch of all
            ranks is their number where nothing else is known.
    """
    if indices is not None and len(indices) == count:
        return indices
    # Ranks are dealt out the images in turn by mmengine's samplers.
    return torch.arange(count) * get_world_size() + get_rank()
