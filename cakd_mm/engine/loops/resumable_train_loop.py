"""Epoch-based training whose continuation equals the uninterrupted run."""

from collections.abc import Sequence
from itertools import islice

import torch
from mmengine.dist import get_rank
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import BatchSampler, DataLoader

from ...datasets.seeded_dataset import SeededDataset, seed_everything
from .resident import resident_loader

# Where the running epoch began, in the runner's message hub.
BEGAN = 'epoch_began'


class _From:
    """The sampler's indices from ``start`` on; its length stays the epoch's."""

    def __init__(self, sampler, start: int) -> None:
        self.sampler, self.start = sampler, start

    def __iter__(self):
        return islice(iter(self.sampler), self.start, None)

    def __len__(self) -> int:
        return len(self.sampler)  # of which logs and end-of-epoch checks are made


@LOOPS.register_module()
class ResumableTrainLoop(EpochBasedTrainLoop):
    """:class:`mmengine.EpochBasedTrainLoop` that can be interrupted anywhere.

    mmengine saves no random state and starts an epoch again from its first
    batch. Here every sample's augmentation is seeded by (seed, epoch, index),
    every step by (seed, step, rank), and an epoch goes on with the batch after
    the checkpoint's. On CPU the result equals the uninterrupted run bit for bit. A
    checkpoint is written before its epoch is scored, so that a run resumed at the end
    of an epoch begins with that score, and its log lacks none.
    A checkpoint taken between two steps of gradient accumulation loses the
    gradients accumulated so far.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): Config of the loader, or the loader;
            only a loader built here has its samples seeded.
        resident (bool): Keep the decoded images in memory, on the model's device;
            see :class:`ResidentDataset`. Defaults to False.
        **kwargs: As in mmengine.

    Raises:
        ValueError: the data cannot be made resident.
    """

    def __init__(
        self,
        runner,
        dataloader: DataLoader | dict,
        resident: bool = False,
        **kwargs,
    ) -> None:
        sampler = dataloader.get('sampler') if isinstance(dataloader, dict) else None
        if resident:
            dataloader = resident_loader(dataloader, runner.model, runner.seed)
        elif isinstance(dataloader, dict):
            dataset = dict(
                type='SeededDataset', dataset=dataloader['dataset'], seed=runner.seed
            )
            dataloader = {**dataloader, 'dataset': dataset}
        super().__init__(runner, dataloader, **kwargs)
        dataset = self.dataloader.dataset
        if not isinstance(dataset, SeededDataset):
            # `num_batch_per_epoch` puts mmengine's slice around it.
            dataset = getattr(dataset, '_dataset', None)
        self._dataset = dataset if isinstance(dataset, SeededDataset) else None
        self._shares_seed = isinstance(sampler, dict) and 'seed' not in sampler
        self._on_cpu = next(runner.model.parameters()).device.type == 'cpu'
        self._start = 0

    @property
    def seed(self) -> int:
        """The seed that all ranks share."""
        apart = self.runner._randomness_cfg.get('diff_rank_seed', False)
        return self.runner.seed - (get_rank() if apart else 0)

    def run(self) -> torch.nn.Module:
        """Train; seed and place may have come from a checkpoint just loaded."""
        if self._dataset is not None:
            self._dataset.seed = self.seed
        sampler = getattr(self.dataloader.batch_sampler, 'sampler', None)
        if self._shares_seed and hasattr(sampler, 'seed'):
            sampler.seed = self.seed
        self._start = self._steps_done()
        runner = self.runner
        runner.call_hook('before_train')
        if self._ends_epoch():
            self._score_if_due()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._score_if_due()
        runner.call_hook('after_train')
        return runner.model

    def _score_if_due(self) -> None:
        """Run the validation that belongs to the end of this epoch."""
        self._decide_current_val_interval()
        if self.runner.val_loop is None or self._epoch < self.val_begin:
            return
        if self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs:
            self.runner.val_loop.run()

    def _ends_epoch(self) -> bool:
        """Whether the checkpoint just loaded was taken at the end of an epoch."""
        began = self.runner.message_hub.get_info(BEGAN, {})
        return (
            self._iter > 0
            and began.get('epoch') == self._epoch - 1
            and began['iter'] + began['steps'] == self._iter
        )

    def _steps_done(self) -> int:
        """Return how many steps of this epoch a checkpoint has behind it."""
        began = self.runner.message_hub.get_info(BEGAN, {})
        if began.get('epoch') != self._epoch:
            return 0
        steps = len(self.dataloader)
        if began['steps'] != steps:
            self.runner.logger.warning(
                f'The checkpoint was taken within an epoch of {began["steps"]} steps, '
                f'this run has {steps} (another batch size or number of ranks): epoch '
                f'{self._epoch + 1} starts again at its first batch.'
            )
            return 0
        return self._iter - began['iter']

    def run_epoch(self) -> None:
        """Train one epoch, or what a checkpoint left of it."""
        start, self._start = self._start, 0
        # Travels in every checkpoint.
        self.runner.message_hub.update_info(
            BEGAN,
            dict(
                epoch=self._epoch, iter=self._iter - start, steps=len(self.dataloader)
            ),
        )
        if self._dataset is not None:
            self._dataset.epoch.fill_(self._epoch)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, batch in self._batches(start):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Train one step, its dropout and batch augmentation seeded."""
        # Asking every kind of device for its generator takes as long as a small step.
        seed_everything(self.seed, self._iter, get_rank(), cpu_only=self._on_cpu)
        super().run_iter(idx, data_batch)

    def _batches(self, start: int):
        """Yield (index, batch) from batch ``start`` of the epoch on."""
        loader = self.dataloader
        batches = loader.batch_sampler
        if start == 0 or type(batches) is not BatchSampler:  # may group otherwise
            yield from islice(enumerate(loader), start, None)
            return
        # Skip indices instead of batches: nothing is loaded to be thrown away.
        sampler = batches.sampler
        batches.sampler = _From(sampler, start * batches.batch_size)
        try:
            yield from enumerate(loader, start)
        finally:
            batches.sampler = sampler
