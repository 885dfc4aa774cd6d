"""The base class of losses between lists of features, with a term for each level."""

from collections.abc import Sequence

from torch import Tensor

from ..term_axis import TermAxis, TermLabels
from .base import DistillLoss

# ``level_1`` belongs to the first recorder of a list.
LEVEL_TERMS: TermLabels = {
    f'level_{i}': (TermAxis.SQUARED, f'level_{i}: of feature {i} of the list')
    for i in range(1, 13)
}


class FeatureListLoss(DistillLoss):
    """Base of the losses that log the unweighted value of each level."""

    term_labels = LEVEL_TERMS

    def log_levels(self, levels: Sequence[Tensor]) -> None:
        """Save the values of the levels, scalars, for the log."""
        self.log_terms(**{f'level_{i}': value for i, value in enumerate(levels, 1)})
