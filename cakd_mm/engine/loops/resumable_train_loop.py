"""Epoch-based training that, when resumed, equals the uninterrupted run."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop
from torch import nn
from torch.utils.data import BatchSampler, DataLoader

from ...utils.error_log import errors_in_log
from .resident import resident_loader
from .seeded_loop import SeededLoop, require_model, seeded_loader

# Entry of the runner's message hub that says where the running epoch began.
BEGAN = 'epoch_began'


class _From:
    """The sampler's indices from ``start`` on.

    Its length stays that of the epoch, because logs and hooks that act at the end of
    an epoch depend on it.
    """

    def __init__(self, sampler, start: int) -> None:
        self.sampler, self.start = sampler, start

    def __iter__(self) -> Iterator[int]:
        return islice(iter(self.sampler), self.start, None)

    def __len__(self) -> int:
        return len(self.sampler)


@LOOPS.register_module()
class ResumableTrainLoop(SeededLoop, EpochBasedTrainLoop):
    """:class:`mmengine.EpochBasedTrainLoop` that can be interrupted anywhere.

    mmengine saves no random state and starts an epoch again from its first
    batch. Here the augmentation of a sample is seeded by (seed, epoch, index) and a
    step by (seed, step, rank), and an epoch goes on with the batch after that of the
    checkpoint. On a CPU the result equals the uninterrupted run bit for bit. A
    checkpoint is written before its epoch is scored, so a run that is resumed at the
    end of an epoch begins with that score, and its log lacks none. A checkpoint taken
    between two steps of gradient accumulation loses the gradients accumulated so far.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): Config of the loader, or the loader, whose
            samples then are not seeded here.
        resident (bool): Whether the decoded images stay on the model's device; see
            :class:`ResidentDataset`. Defaults to False.
        max_epochs (int): How many epochs to train.
        **kwargs: As in mmengine.

    Raises:
        ValueError: the data cannot be made resident, or the runner is a
            ``FlexibleRunner``.
    """

    def __init__(
        self,
        runner,
        dataloader: DataLoader | dict,
        resident: bool = False,
        *,
        max_epochs: int,
        **kwargs,
    ) -> None:
        require_model(runner)
        loader = dataloader
        if resident:
            loader = resident_loader(dataloader, runner.model, runner.seed)
        elif isinstance(dataloader, dict):
            loader = seeded_loader(dataloader, runner.seed)
        super().__init__(runner, loader, max_epochs, **kwargs)
        self._find_seeded(dataloader)
        self._start = 0

    def run(self) -> nn.Module:
        """Train, with the seed and from the step that a checkpoint has set if any."""
        self._share_seed()
        self._start = self._steps_done()
        runner = self.runner
        with errors_in_log(runner.logger):
            runner.call_hook('before_train')
            if self._ends_epoch():
                self._score_if_due(self._epoch, self._max_epochs)
            while self._epoch < self._max_epochs and not self.stop_training:
                self.run_epoch()
                self._score_if_due(self._epoch, self._max_epochs)
            runner.call_hook('after_train')
        return runner.model

    def _ends_epoch(self) -> bool:
        """Return whether the checkpoint was taken at the end of an epoch."""
        began = self.runner.message_hub.get_info(BEGAN, {})
        return (
            self._iter > 0
            and began.get('epoch') == self._epoch - 1
            and began['iter'] + began['steps'] == self._iter
        )

    def _steps_done(self) -> int:
        """Return how many steps of this epoch the checkpoint has done."""
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
        """Train one epoch, or the steps of it that a checkpoint has not done."""
        start, self._start = self._start, 0
        began, steps = self._iter - start, len(self.dataloader)
        # Every checkpoint holds the message hub.
        self.runner.message_hub.update_info(
            BEGAN, dict(epoch=self._epoch, iter=began, steps=steps)
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
        self._seed_step()
        super().run_iter(idx, data_batch)

    def _batches(self, start: int) -> Iterator[tuple[int, Any]]:
        """Yield (index, batch) from batch ``start`` of the epoch on."""
        loader = self.dataloader
        batches = loader.batch_sampler
        # Another batch sampler may put images together in another way.
        if start == 0 or type(batches) is not BatchSampler:
            yield from islice(enumerate(loader), start, None)
            return
        # Indices are skipped instead of batches, so that no image is loaded in vain.
        sampler = batches.sampler
        batches.sampler = _From(sampler, start * batches.batch_size)
        try:
            yield from enumerate(loader, start)
        finally:
            batches.sampler = sampler
