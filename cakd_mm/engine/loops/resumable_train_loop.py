"""Epoch-based training whose continuation equals the uninterrupted run."""

import random
from collections.abc import Sequence
from copy import deepcopy
from itertools import islice

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.registry import DATASETS, LOOPS
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import BatchSampler, DataLoader, Dataset


def seed_everything(*numbers: int) -> None:
    """Seed ``random``, ``numpy`` and ``torch`` from several numbers.

    Unlike a sum of them, the hash keeps (1, 2) and (2, 1) apart.
    """
    state = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(state[1])
    torch.manual_seed(int(state[2]))


class SeededDataset(Dataset):
    """Wraps a dataset so that an item depends on seed, epoch and index alone.

    Random transforms then give the same result in any worker, with any number
    of workers, and after a restart in the middle of an epoch.

    Args:
        dataset (Dataset): The dataset with its random pipeline.
        seed (int): The run's seed.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        # Shared with persistent workers, which keep their copy of the dataset.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __getattr__(self, name: str):
        if name == 'dataset':  # not yet there while a worker unpickles
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int):
        seed_everything(self.seed, int(self.epoch), index)
        return self.dataset[index]


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
            dataloader = deepcopy(dataloader)
            dataset = dataloader['dataset']
            if isinstance(dataset, dict):
                dataset = DATASETS.build(dataset)
                if hasattr(dataset, 'full_init'):
                    dataset.full_init()
            dataloader['dataset'] = SeededDataset(dataset, runner.seed)
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
