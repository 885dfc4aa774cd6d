"""Tells the distillation losses of a run which epoch it is."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ...models.checks import is_count
from ...models.losses.base import losses_of
from ...utils.errors import describe
from .counting import about_a_pass, counts_epochs

KEY = 'default_hooks.distill_epoch.iters_per_epoch'


@HOOKS.register_module()
class DistillEpochHook(Hook):
    """Call ``set_epoch`` of every distillation loss that needs the epoch.

    It is called before each epoch with the number of the epoch, counted from 0, and
    also when a run is resumed in the middle of an epoch. Write
    ``default_hooks=dict(distill_epoch=dict(type='DistillEpochHook'))``. In a run by
    iterations the config has to say how many of them are an epoch: the losses are told
    ``iteration // iters_per_epoch``, iterations counted from 0.

    Args:
        iters_per_epoch (int, optional): Iterations of an epoch, for a loop that counts
            no epochs. Defaults to None.

    Raises:
        ValueError: ``iters_per_epoch`` is no positive integer; a loss needs the epoch
            in a loop that counts none, and it is not given; or it is given to a loop
            that counts epochs.
    """

    def __init__(self, iters_per_epoch: int | None = None) -> None:
        if iters_per_epoch is not None and not is_count(iters_per_epoch):
            problem = 'It counts the iterations of an epoch.'
            raise ValueError(
                describe(KEY, iters_per_epoch, problem, 'Write 1 or more.')
            )
        self.iters_per_epoch = iters_per_epoch
        self._told: int | None = None

    def before_train(self, runner) -> None:
        """Refuse to go on if a loss needs epochs and nothing says how long one is."""
        self._told = None
        losses = [x for x in losses_of(runner.model) if x.needs_epoch]
        if not losses:
            return
        length, loop = self.iters_per_epoch, type(runner.train_loop).__name__
        if counts_epochs(runner) and length is not None:
            problem = f'{loop} counts epochs itself.'
            raise ValueError(describe(KEY, length, problem, 'Leave it out.'))
        if not counts_epochs(runner) and length is None:
            problem = (
                f'{loop} counts no epochs, and {losses[0].class_name} changes with '
                'them.'
            )
            steps, why = about_a_pass(runner)
            remedy = f'Write iters_per_epoch={steps}, say. {why}'.rstrip()
            raise ValueError(describe(KEY, None, problem, remedy))

    def before_train_epoch(self, runner) -> None:
        """Tell the losses the epoch."""
        self._tell(runner)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Tell the losses the epoch, if iterations make one up."""
        if self.iters_per_epoch is not None:
            self._tell(runner)

    def _tell(self, runner) -> None:
        epoch = runner.epoch
        if self.iters_per_epoch is not None:
            epoch = runner.iter // self.iters_per_epoch
        if epoch == self._told:
            return
        self._told = epoch
        for loss in losses_of(runner.model):
            if loss.needs_epoch:
                loss.set_epoch(epoch)
