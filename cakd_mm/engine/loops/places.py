"""Batches of a run that counts steps instead of epochs."""

from collections.abc import Iterable, Iterator
from itertools import count, islice
from typing import Any

from mmengine.dist import get_dist_info

from ...datasets.seeded_dataset import Place
from ...utils.errors import describe


class PlacedBatches:
    """What a batch sampler gives, pass after pass, as places of a run's steps.

    The batches before the first step are drawn as indices, and none of their images
    is loaded. A sampler that ends is told the number of each pass (``set_epoch``), as
    by mmengine.

    Args:
        batches (Iterable): The batch sampler; it may end or not.
        start (int): The first step, counted from 0.
        stop (int): The step before which batches end.

    Raises:
        ValueError: a pass has no batch.
    """

    def __init__(self, batches: Iterable[list[int]], start: int, stop: int) -> None:
        self.batches = batches
        self.start = start
        self.stop = stop

    def __iter__(self) -> Iterator[list[Place]]:
        rank, ranks = get_dist_info()
        steps = enumerate(self._passes())
        for step, batch in islice(steps, self.start, self.stop):
            # Samplers of mmengine give the images of a step to one rank after another,
            # so that these numbers do not depend on how many ranks there are.
            yield [Place(x, step, rank + ranks * i) for i, x in enumerate(batch)]

    def _passes(self) -> Iterator[list[int]]:
        sampler: Any = getattr(self.batches, 'sampler', None)
        for number in count():
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(number)
            is_empty = True
            for batch in self.batches:
                is_empty = False
                yield batch
            if is_empty:
                problem = 'It gives no batch.'
                remedy = 'Give it more images, or lower its batch_size.'
                raise ValueError(describe('train_dataloader', 0, problem, remedy))
