"""Keeps of every logged scalar what the log still needs, not the whole run."""

from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, LogProcessor

from ...utils.errors import describe

UNBOUNDED = HistoryBuffer().max_length


@HOOKS.register_module()
class BoundedHistoryHook(Hook):
    """Bound the history of logged scalars, without changing what is logged.

    mmengine keeps every value of every scalar, up to a million, copies all of them
    in every step to append one more, and writes all into every checkpoint. This hook
    keeps the latest, as many as the ``log_processor`` averages over. A scalar of
    which ``custom_cfg`` wants all (``window_size='global'``, none or not positive)
    is kept whole, and so is everything for a log processor other than mmengine's
    own. Checkpoints do not remember the bound: a run may be resumed with or without
    the hook. Put it into ``default_hooks``.

    Args:
        at_least (int): Values of each scalar that are kept even if the log needs
            fewer, for whoever else reads ``runner.message_hub``; 1000000 keeps what
            mmengine keeps. Defaults to 1000, which cost no more than ten.

    Raises:
        ValueError: ``at_least`` is below 1.
    """

    def __init__(self, at_least: int = 1000) -> None:
        if at_least < 1:
            raise ValueError(
                describe(
                    'default_hooks.history.at_least',
                    at_least,
                    'It counts values.',
                    'Write 1 or more.',
                )
            )
        self.at_least = at_least
        self._length: int | None = None
        self._whole: set[str] = set()
        self._seen = 0

    def before_train(self, runner) -> None:
        """Find out how many values the log needs."""
        self._length, self._whole, self._seen = None, set(), 0
        processor = runner.log_processor
        if type(processor) is not LogProcessor or processor.window_size < 1:
            return
        needed = [self.at_least, processor.window_size]
        if runner.val_loop is not None:
            # The mean time of a validation is taken over one step more than it has.
            needed.append(len(runner.val_dataloader) + 1)
        epoch = None
        # In another loop a step's number in its epoch is that in the run.
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            epoch = len(runner.train_dataloader)
        for entry in processor.custom_cfg:
            window = entry.get('window_size')
            window = epoch if window == 'epoch' else window
            if isinstance(window, int) and window > 0:
                needed.append(window)
            else:
                self._whole.add(_without_mode(entry['data_src']))
        self._length = max(needed)

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        """Bound what has been logged for the first time."""
        scalars = runner.message_hub.log_scalars
        if self._length is None or len(scalars) == self._seen:
            return
        self._seen = len(scalars)
        for name, history in scalars.items():
            scalar = _without_mode(name)
            if scalar != name and scalar not in self._whole:
                history.max_length = min(history.max_length, self._length)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Let whoever resumes decide on the bound."""
        for history in checkpoint['message_hub']['log_scalars'].values():
            if history.max_length == self._length:
                history.max_length = UNBOUNDED


def _without_mode(name: str) -> str:
    """Return a scalar's name without ``train/`` or ``val/``."""
    return name.removeprefix('train/').removeprefix('val/')
