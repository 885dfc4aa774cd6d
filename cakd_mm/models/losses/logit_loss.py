"""The base class of losses between the class logits of student and teacher."""

from torch import Tensor

from ..checks import checked_scores
from .base import DistillLoss
from .functional.standardized import standardized


class LogitLoss(DistillLoss):
    """Base of the losses between class logits.

    A subclass computes with what :meth:`scores` returns.

    Args:
        loss_weight (float): Factor of the whole loss. Defaults to 1.0.
        standardize (bool): Whether both nets' logits lose their mean and are divided
            by their standard deviation, row by row, before the temperature divides
            them (arXiv 2403.01427), see :func:`standardized`. The student then has to
            learn the relations of the teacher's logits, and not their size. The loss
            needs a larger weight then. Defaults to False.

    Raises:
        ValueError: ``loss_weight`` is out of range.
        TypeError: ``standardize`` is no bool.
    """

    def __init__(self, loss_weight: float = 1.0, standardize: bool = False) -> None:
        super().__init__(loss_weight)
        if not isinstance(standardize, bool):
            raise TypeError(
                f'standardize must be True or False, got {standardize!r}: set '
                f'standardize in the config of {type(self).__name__}.'
            )
        self.standardize = standardize

    def scores(self, preds_S: Tensor, preds_T: Tensor) -> tuple[Tensor, Tensor]:
        """Return both nets' logits, (N, C), as they are compared.

        They are checked, in float32 unless one is float64, standardised if asked to,
        and the teacher's are detached.

        Raises:
            TypeError: one is no float tensor.
            ValueError: one is not (N, C), or the shapes differ.
        """
        preds_S, preds_T = checked_scores(preds_S, preds_T)
        if self.standardize:
            preds_S, preds_T = standardized(preds_S), standardized(preds_T)
        return preds_S, preds_T
