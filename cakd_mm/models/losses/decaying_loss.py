"""The base class of losses whose weight falls to 0 in the last epochs."""

from torch import Tensor

from ..checks import is_count
from ..term_axis import TermAxis, TermLabels
from .epoch_loss import EpochLoss
from .functional.wkd import cosine_decay

DECAY_TERM: TermLabels = {
    'decay': (TermAxis.SHARE, 'decay: factor of the weight in this epoch')
}


class DecayingLoss(EpochLoss):
    """Mixin of the losses with a weight that falls along half a cosine.

    It comes before the other base of a loss, whose ``__init__`` calls
    :meth:`set_decay`.
    """

    decay_from: int | None
    decay_to: int | None

    def set_decay(self, decay_from: int | None, decay_to: int | None) -> None:
        """Set from which epoch to which the weight falls.

        Args:
            decay_from (int, optional): Epochs with the whole weight. None for all.
            decay_to (int, optional): The epoch, counted from 1, in which the weight
                is 0, normally the last. None if ``decay_from`` is.

        Raises:
            ValueError: one is no count, or ``decay_to`` is not above ``decay_from``.
        """
        self.needs_epoch = (decay_from, decay_to) != (None, None)
        if self.needs_epoch and not (
            is_count(decay_from, least=0)
            and is_count(decay_to)
            and decay_from < decay_to
        ):
            raise ValueError(
                f'decay_from={decay_from!r} and decay_to={decay_to!r} must be two '
                'numbers of epochs, the second the larger one: write decay_from=150, '
                'decay_to=240 for a weight that falls from epoch 151 to 240 in the '
                f'config of {type(self).__name__}, or neither.'
            )
        self.decay_from = decay_from
        self.decay_to = decay_to

    @property
    def decay(self) -> float:
        """The factor of the weight in this epoch.

        Raises:
            ValueError: the weight falls, and a step of training has no epoch.
        """
        if self.decay_from is None or self.decay_to is None:
            return 1.0
        return cosine_decay(self.epochs_begun, self.decay_from, self.decay_to)

    def decay_term(self, like: Tensor) -> dict[str, Tensor]:
        """Return the factor as a term for the log, if the weight falls."""
        if self.decay_from is None:
            return {}
        return dict(decay=like.new_full((), self.decay))
