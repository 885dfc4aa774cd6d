"""Numbers by which a scorer tells images apart, on any number of ranks."""

import torch
from mmengine.dist import get_rank, get_world_size
from torch import Tensor


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
