"""Epoch-based training whose continuation equals the uninterrupted run."""

from collections.abc import Sequence
from itertools import islice

import torch
from mmengine.dist import get_rank
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import BatchSampler, DataLoader

from ...datasets.seeded_dataset import SeededDataset, seed_everything


class _From:
    """The sampler's indices from ``start`` on, for one epoch."""

    def __init__(self, sampler, start: int) -> None:
        self.sampler, self.start = sampler, start

    def __iter__(self):
        return islice(iter(self.sampler), self.start, None)

    def __len__(self) -> int:
        return max(len(self.sampler) - self.start, 0)


@LOOPS.register_module()
class ResumableTrainLoop(EpochBasedTrainLoop):
    """:class:`mmengine.EpochBasedTrainLoop` that can be interrupted anywhere.

    mmengine saves no random state and starts an epoch again from its first
    batch. Here every sample's augmentation is seeded by (seed, epoch, index),
    every step by (seed, step, rank), and an epoch goes on with the batch after
    the checkpoint's. On CPU the result equals the uninterrupted run bit for bit.
    A checkpoint taken between two steps of gradient accumulation loses the
    gradients accumulated so far.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): Config of the loader, or the loader;
            only a loader built here has its samples seeded.
        **kwargs: As in mmengine.
    """

    def __init__(self, runner, dataloader: DataLoader | dict, **kwargs) -> None:
        if isinstance(dataloader, dict):
            dataset = dict(
                type='SeededDataset', dataset=dataloader['dataset'], seed=runner.seed
            )
            dataloader = {**dataloader, 'dataset': dataset}
        super().__init__(runner, dataloader, **kwargs)

    def run(self) -> torch.nn.Module:
        """Train; the seed may have come from a checkpoint just loaded."""
        for part in (self.dataloader.dataset, self.dataloader.sampler):
            if getattr(part, 'seed', None) is not None:
                part.seed = self.runner.seed
        return super().run()

    def run_epoch(self) -> None:
        """Train one epoch, or what a checkpoint left of it."""
        start = self._iter - self._epoch * len(self.dataloader)
        dataset = self.dataloader.dataset
        if isinstance(dataset, SeededDataset):
            dataset.epoch.fill_(self._epoch)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, batch in self._batches(start):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Train one step, its dropout and batch augmentation seeded."""
        seed_everything(self.runner.seed, self._iter, get_rank())
        super().run_iter(idx, data_batch)

    def _batches(self, start: int):
        """Yield (index, batch) from batch ``start`` of the epoch on."""
        loader = self.dataloader
        batches = loader.batch_sampler
        if start == 0 or not isinstance(batches, BatchSampler):
            yield from islice(enumerate(loader), start, None)
            return
        # Skip indices instead of batches: nothing is loaded to be thrown away.
        sampler = batches.sampler
        batches.sampler = _From(sampler, start * batches.batch_size)
        try:
            yield from enumerate(loader, start)
        finally:
            batches.sampler = sampler
