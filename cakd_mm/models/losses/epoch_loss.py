"""The base class of losses that change with the epoch."""

from ...utils.errors import describe
from ..checks import check_epoch
from .base import DistillLoss


class EpochLoss(DistillLoss):
    """Mixin of the losses that change with the epoch, if ``needs_epoch``.

    It comes before the other base of a loss.

    Attributes:
        epoch (int, optional): The epoch, counted from 0. None until it is told.
    """

    epoch: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch that begins, counted from 0.

        Raises:
            ValueError: ``epoch`` is no integer from 0 on.
        """
        check_epoch(epoch)
        self.epoch = epoch

    @property
    def epochs_begun(self) -> int:
        """How many epochs have begun, 0 before the first one.

        Raises:
            ValueError: the loss needs the epoch, and a step of training has none.
        """
        if self.needs_epoch and self.training and self.epoch is None:
            problem = f'{type(self).__name__} changes with the epoch, and was not told.'
            remedy = "Write default_hooks.distill_epoch=dict(type='DistillEpochHook')."
            key = 'default_hooks.distill_epoch'
            raise ValueError(describe(key, None, problem, remedy))
        return 0 if self.epoch is None else self.epoch + 1
