"""A dataset whose random transforms depend on seed, epoch and index alone."""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.registry import DATASETS
from torch.utils.data import Dataset

from ..utils.errors import describe

# A last number of seeds, which is not 0 because that would not change them.
OF_PLACE = 1


def seed_everything(*numbers: int, cpu_only: bool = False) -> None:
    """Seed ``random``, ``numpy`` and ``torch`` from several numbers.

    The numbers are hashed, so that (1, 2) and (2, 1) give different states.

    Args:
        *numbers: Non-negative integers.
        cpu_only: Leave the generators of other devices alone, because
            ``torch.manual_seed``, which asks every kind of device, is too slow to be
            called for every sample. Defaults to False.
    """
    state = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(state[1])
    (torch.default_generator if cpu_only else torch).manual_seed(int(state[2]))


def shared_seed(runner) -> int:
    """Return the seed of a run that all its ranks share.

    mmengine adds the rank to the seed if ``randomness.diff_rank_seed`` is set.
    """
    apart = runner._randomness_cfg.get('diff_rank_seed', False)
    return runner.seed - (get_rank() if apart else 0)


class Place(NamedTuple):
    """An image as one of a step's images.

    Attributes:
        image: Its index in the data set, which a run may draw many times.
        step: The step, counted from 0.
        number: Its number among the images of the step on all ranks.
    """

    image: int
    step: int
    number: int


@DATASETS.register_module()
class SeededDataset(Dataset):
    """Wraps a dataset so that an item depends on seed, epoch and index alone.

    Random transforms then give the same result in any worker, with any number
    of workers, and after a restart in the middle of an epoch. Asked for a
    :class:`Place` instead of an index, an item depends on seed and place alone, because
    a run by iterations has no epochs. All attributes are those of the wrapped dataset.

    Args:
        dataset (dict | Dataset): The dataset with its random pipeline.
        seed (int): The run's seed.

    Raises:
        ValueError: the dataset seeds its items itself, and would never be told of
            another epoch.
    """

    def __init__(self, dataset: dict | Dataset, seed: int) -> None:
        # Any, because what it has besides items depends on its class.
        self.dataset: Any = dataset
        if isinstance(dataset, dict):
            self.dataset = DATASETS.build(dataset)
        if isinstance(self.dataset, SeededDataset):
            name = type(self.dataset).__name__
            problem = 'The loop puts it around the data set itself.'
            remedy = 'Write the data set alone; train_cfg.resident=True in a '
            remedy += 'ResumableTrainLoop keeps its images in memory.'
            raise ValueError(
                describe('train_dataloader.dataset.type', name, problem, remedy)
            )
        self.seed = seed
        # In shared memory, because persistent workers have copies of the dataset.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __getattr__(self, name: str):
        if name == 'dataset':  # not set yet while a worker unpickles
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self.epoch.share_memory_()  # a deep copy has it in ordinary memory

    @property
    def pipeline(self):
        """The wrapped dataset's pipeline, which ``SwitchRecipeHook`` can set."""
        return self.dataset.pipeline

    @pipeline.setter
    def pipeline(self, pipeline) -> None:
        self.dataset.pipeline = pipeline

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int | Place):
        if isinstance(index, Place):
            index, *place = index
            # One number more than a step has, which would draw the same otherwise.
            seed_everything(self.seed, *place, OF_PLACE, cpu_only=True)
        else:
            seed_everything(self.seed, int(self.epoch), index, cpu_only=True)
        return self.dataset[index]

    def __getitems__(self, indices: Sequence[int | Place]) -> Any:
        """Return the items of a batch, for which a loader asks at once.

        The wrapped dataset's own method would not be seeded.
        """
        return [self[index] for index in indices]
