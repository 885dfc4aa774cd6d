"""What loops share whose resumed runs equal the uninterrupted ones."""

from collections.abc import Mapping
from typing import Any

from mmengine.dist import get_rank
from mmengine.runner.base_loop import BaseLoop
from torch import nn
from torch.utils.data import DataLoader

from ...datasets.seeded_dataset import SeededDataset, seed_everything, shared_seed
from ...utils.errors import describe


def seeded_loader(dataloader: dict, seed: int) -> dict:
    """Return a loader's config whose samples draw seeded numbers."""
    dataset = dict(type='SeededDataset', dataset=dataloader['dataset'], seed=seed)
    return {**dataloader, 'dataset': dataset}


def require_model(runner) -> None:
    """Refuse a runner without a model yet.

    Raises:
        ValueError: the runner is a ``FlexibleRunner``.
    """
    if not isinstance(runner.model, nn.Module):
        problem = f'{type(runner).__name__} builds the model after this loop, '
        problem += 'which has to know its device.'
        remedy = "Remove the key: mmengine's Runner trains on several ranks, too."
        key, name = 'runner_type', type(runner).__name__
        raise ValueError(describe(key, name, problem, remedy))


class SeededLoop(BaseLoop):
    """Mixin of a training loop of mmengine, before which it stands as a base.

    A step is seeded by (seed, step, rank). Samples are those of a
    :class:`SeededDataset`, and the order of the sampler is that of the seed.
    """

    dataloader: Any
    _dataset: SeededDataset | None
    _shares_seed: bool
    _on_cpu: bool

    def _find_seeded(self, given: Mapping | DataLoader) -> None:
        """Look what is to be seeded, once the loader, ``given`` as this, is built."""
        sampler = given.get('sampler') if isinstance(given, Mapping) else None
        self._shares_seed = isinstance(sampler, dict) and 'seed' not in sampler
        dataset = self.dataloader.dataset
        if not isinstance(dataset, SeededDataset):
            # `num_batch_per_epoch` puts mmengine's slice around it.
            dataset = getattr(dataset, '_dataset', None)
        self._dataset = dataset if isinstance(dataset, SeededDataset) else None
        self._on_cpu = next(self.runner.model.parameters()).device.type == 'cpu'

    def _share_seed(self) -> None:
        """Give data and sampler the run's seed, which a checkpoint may have set."""
        seed = shared_seed(self.runner)
        if self._dataset is not None:
            self._dataset.seed = seed
        sampler: Any = getattr(self.dataloader.batch_sampler, 'sampler', None)
        if self._shares_seed and hasattr(sampler, 'seed'):
            sampler.seed = seed

    def _seed_step(self) -> None:
        """Seed dropout and batch augmentation of the step that begins."""
        seed = shared_seed(self.runner)
        # To seed the generators of all devices takes as long as a small step.
        seed_everything(seed, self._iter, get_rank(), cpu_only=self._on_cpu)

    def _score_if_due(self, done: int, end: int) -> None:
        """Run the validation that belongs to the end of epoch or step ``done``.

        Args:
            done (int): How many epochs or steps have ended.
            end (int): How many there are; the last one is always scored.
        """
        self._decide_current_val_interval()
        if self.runner.val_loop is None or done < self.val_begin:
            return
        if done % self.val_interval == 0 or done == end:
            self.runner.val_loop.run()
