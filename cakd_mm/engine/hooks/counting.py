"""What a run counts, epochs or iterations."""

from math import ceil

from mmengine.dist import get_world_size
from mmengine.runner import EpochBasedTrainLoop


def counts_epochs(runner) -> bool:
    """Return whether the training loop counts epochs."""
    return isinstance(runner.train_loop, EpochBasedTrainLoop)


def about_a_pass(runner) -> tuple[int, str]:
    """Return how many iterations see each training image once, and a sentence of it.

    A set of unknown size counts as one of 1,000 iterations.
    """
    loader = runner.train_dataloader
    batch = getattr(loader.batch_sampler, 'batch_size', 0) * get_world_size()
    if not batch or not hasattr(loader.dataset, '__len__'):
        return 1000, ''
    images = len(loader.dataset)
    steps = max(ceil(images / batch), 1)
    return steps, f'One pass over {images:,} images, {batch} a step, takes {steps:,}.'
