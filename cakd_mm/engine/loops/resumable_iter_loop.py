"""Training by iterations that, when resumed, equals the uninterrupted run."""

import copy
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import CheckpointHook
from mmengine.registry import LOOPS
from mmengine.runner import IterBasedTrainLoop
from mmengine.runner.base_loop import BaseLoop
from torch import nn
from torch.utils.data import DataLoader

from ...compat import without_workers
from ...utils.error_log import errors_in_log
from ...utils.errors import describe
from ..hooks.logged import logger_hook
from .places import PlacedBatches
from .seeded_loop import SeededLoop, require_model, seeded_loader

# Entry of the runner's message hub: images of a step on all ranks.
IMAGES = 'images_of_a_step'


@LOOPS.register_module()
class ResumableIterLoop(SeededLoop, IterBasedTrainLoop):
    """:class:`mmengine.IterBasedTrainLoop` that can be interrupted anywhere.

    The augmentation of a sample is seeded by (seed, step, number of the sample in the
    step), because a run may draw an image many times, and a step by (seed, step, rank).
    A resumed run goes on with the sample after that of the checkpoint, of any sampler,
    and loads none of those before. On a CPU the result equals the uninterrupted run bit
    for bit. A checkpoint is written before its step is scored, so a run that is resumed
    where a validation is due begins with it. A checkpoint taken between two steps of
    gradient accumulation loses the gradients accumulated so far.

    The log counts iterations, whatever ``log_processor.by_epoch`` and
    ``default_hooks.logger.log_metric_by_epoch`` say. Losses that change with the epoch
    need :class:`DistillEpochHook` with ``iters_per_epoch``.

    Args:
        runner (Runner): The runner.
        dataloader (dict): Config of the loader.
        max_iters (int): How many iterations to train.
        val_begin (int): The first iteration after which a validation may be due.
            Defaults to 1.
        val_interval (int): Iterations from one validation to the next; the last one is
            always scored. Defaults to 1000.
        dynamic_intervals (list[tuple[int, int]], optional): Other intervals from given
            iterations on, as in mmengine. Defaults to None.

    Raises:
        ValueError: the loader is built already or has no batch size, the runner is a
            ``FlexibleRunner``, or checkpoints or a schedule wait for the end of an
            epoch.
    """

    def __init__(
        self,
        runner,
        dataloader: dict,
        *,
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: list[tuple[int, int]] | None = None,
    ) -> None:
        require_model(runner)
        if not isinstance(dataloader, dict):
            problem = 'The samples of a loader that is built already are not seeded.'
            remedy = 'Give the config of the loader.'
            name = type(dataloader).__name__
            raise ValueError(describe('train_dataloader', name, problem, remedy))
        BaseLoop.__init__(self, runner, seeded_loader(dataloader, runner.seed))
        loader = self.dataloader
        if loader.batch_sampler is None:
            key, problem = 'train_dataloader.batch_size', 'A step needs a batch.'
            raise ValueError(describe(key, None, problem, 'Write its images.'))
        super().__init__(
            runner,
            without_workers(loader),
            max_iters,
            val_begin,
            val_interval,
            dynamic_intervals,
        )
        self.dataloader = loader
        self._find_seeded(dataloader)

    def run(self) -> nn.Module:
        """Train, with the seed and from the step that a checkpoint has set if any."""
        runner = self.runner
        with errors_in_log(runner.logger):
            self._require_no_epochs()
            self._share_seed()
            self._note_images()
            self._count_iterations()
            runner.call_hook('before_train')
            runner.call_hook('before_train_epoch')
            if self._iter > 0:
                self._score_if_due(self._iter, self._max_iters)
            batches = iter(self._placed())
            while self._iter < self._max_iters and not self.stop_training:
                runner.model.train()
                self.run_iter(next(batches))
                self._score_if_due(self._iter, self._max_iters)
            runner.call_hook('after_train_epoch')
            runner.call_hook('after_train')
        return runner.model

    def run_iter(self, data_batch: Any) -> None:
        """Train one step, its dropout and batch augmentation seeded."""
        self._seed_step()
        super().run_iter(data_batch)

    def _placed(self) -> DataLoader:
        """Return the loader of the steps that are left; hooks see the ordinary one."""
        loader = copy.copy(self.dataloader)
        batches = PlacedBatches(loader.batch_sampler, self._iter, self._max_iters)
        # PyTorch lets nobody set it, because a loader may be in use.
        object.__setattr__(loader, 'batch_sampler', batches)
        return loader

    def _require_no_epochs(self) -> None:
        """Refuse what waits for the end of an epoch, which is that of the run."""
        counts = f'{type(self).__name__} counts iterations.'
        for hook in self.runner.hooks:
            if isinstance(hook, CheckpointHook) and hook.by_epoch:
                key = 'default_hooks.checkpoint.by_epoch'
                problem = f'{counts} A checkpoint would be written at the end alone.'
                remedy = f'Write by_epoch=False and interval={self.val_interval}, say.'
                raise ValueError(describe(key, True, problem, remedy))
        schedulers = self.runner.param_schedulers or []
        if isinstance(schedulers, dict):  # of several optimizers
            schedulers = [x for several in schedulers.values() for x in several]
        for scheduler in schedulers:
            if scheduler.by_epoch:
                problem = f'{counts} {type(scheduler).__name__} would never change.'
                remedy = 'Write by_epoch=False, and its numbers in iterations.'
                key = 'param_scheduler.by_epoch'
                raise ValueError(describe(key, True, problem, remedy))

    def _note_images(self) -> None:
        """Warn if a step has other images than in the run that wrote the checkpoint."""
        hub, batches = self.runner.message_hub, self.dataloader.batch_sampler
        images = getattr(batches, 'batch_size', 0) * get_world_size()
        before = hub.get_info(IMAGES, images)
        if before != images:
            self.runner.logger.warning(
                f'The checkpoint was taken in a run of {before} images a step, this '
                f'one has {images}: it goes on where a run of {images} would be after '
                f'iteration {self._iter}.'
            )
        hub.update_info(IMAGES, images)

    def _count_iterations(self) -> None:
        """Let the log count what this loop counts."""
        self.runner.log_processor.by_epoch = False
        logger = logger_hook(self.runner)
        if logger is not None:
            logger.log_metric_by_epoch = False
