"""Bounds the history of logged scalars to what the log needs."""

from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS
from mmengine.runner import LogProcessor

from ...utils.errors import describe
from .counting import counts_epochs

UNBOUNDED = HistoryBuffer().max_length


@HOOKS.register_module()
class BoundedHistoryHook(Hook):
    """Bound the history of logged scalars, without changing what is logged.

    mmengine keeps up to a million values of every scalar, copies all of them in every
    step to append one more, and writes them into every checkpoint. With this hook it
    keeps the latest, as many as the ``log_processor`` averages over. A scalar keeps all
    its values if ``custom_cfg`` averages over all (``window_size='global'``, none or
    not positive), and all scalars do if the log processor is not mmengine's own.
    Checkpoints do not hold the bound, so a run may be resumed with or without the hook.
    Put it into ``default_hooks``.

    Args:
        at_least (int): Values of each scalar to keep even if the log needs fewer,
            because other code may read ``runner.message_hub``; 1000000 keeps what
            mmengine keeps. Defaults to 1000, which cost no more than ten.

    Raises:
        ValueError: ``at_least`` is below 1.
    """

    def __init__(self, at_least: int = 1000) -> None:
        if at_least < 1:
            key = 'default_hooks.history.at_least'
            raise ValueError(
                describe(key, at_least, 'It counts values.', 'Write 1 or more.')
            )
        self.at_least = at_least
        self._length: int | None = None
        self._unbounded: set[str] = set()
        self._count = 0  # of the scalars whose bound has been decided

    def before_train(self, runner) -> None:
        """Find out how many values the log needs."""
        self._length, self._unbounded, self._count = None, set(), 0
        processor = runner.log_processor
        if type(processor) is not LogProcessor or processor.window_size < 1:
            return
        needed = [self.at_least, processor.window_size]
        if runner.val_loop is not None:
            # The log takes the mean time of a validation over one step more.
            needed.append(len(runner.val_dataloader) + 1)
        # In a loop without epochs, mmengine's epoch is the whole run.
        epoch = None
        if counts_epochs(runner):
            epoch = len(runner.train_dataloader)
        for entry in processor.custom_cfg:
            window = entry.get('window_size')
            window = epoch if window == 'epoch' else window
            if isinstance(window, int) and window > 0:
                needed.append(window)
            else:
                self._unbounded.add(_without_mode(entry['data_src']))
        self._length = max(needed)

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        """Bound what has been logged for the first time."""
        scalars = runner.message_hub.log_scalars
        if self._length is None or len(scalars) == self._count:
            return
        self._count = len(scalars)
        for name, history in scalars.items():
            scalar = _without_mode(name)
            if scalar != name and scalar not in self._unbounded:
                history.max_length = min(history.max_length, self._length)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Leave the bound to the run that resumes."""
        for history in checkpoint['message_hub']['log_scalars'].values():
            if history.max_length == self._length:
                history.max_length = UNBOUNDED


def _without_mode(name: str) -> str:
    """Return a scalar's name without ``train/`` or ``val/``."""
    return name.removeprefix('train/').removeprefix('val/')
