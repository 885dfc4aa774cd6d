"""Tells the distillation losses of a run which epoch it is."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop

from ...models.losses.base import losses_of
from ...utils.errors import describe


@HOOKS.register_module()
class DistillEpochHook(Hook):
    """Call ``set_epoch`` of every distillation loss that needs the epoch.

    It is called before each epoch with the number of the epoch, counted from 0, and
    also when a run is resumed in the middle of an epoch. Write
    ``default_hooks=dict(distill_epoch=dict(type='DistillEpochHook'))``.

    Raises:
        ValueError: a loss needs the epoch, but the loop counts no epochs.
    """

    def before_train(self, runner) -> None:
        """Refuse a loop without epochs if a loss needs them."""
        losses = [x for x in losses_of(runner.model) if x.needs_epoch]
        if losses and not isinstance(runner.train_loop, EpochBasedTrainLoop):
            loop = type(runner.train_loop).__name__
            problem = (
                f'It counts no epochs, and {losses[0].class_name} changes with them.'
            )
            remedy = "Write train_cfg.type='ResumableTrainLoop'."
            raise ValueError(describe('train_cfg.type', loop, problem, remedy))

    def before_train_epoch(self, runner) -> None:
        """Tell the losses the epoch."""
        for loss in losses_of(runner.model):
            if loss.needs_epoch:
                loss.set_epoch(runner.epoch)
