"""Squared error between features, the control without a distribution."""

from mmrazor.registry import MODELS
from torch import Tensor

from ..term_axis import TermAxis
from .feature_loss import FeatureLoss


@MODELS.register_module()
class FeatureSquaredLoss(FeatureLoss):
    """Half the mean squared difference of every row.

    With the factor it is the limit of ``tau**2 * KL`` for a high temperature, apart
    from a constant that is added to a row, which softmax ignores. Args and errors are
    those of :class:`FeatureLoss`.
    """

    term_labels = {
        'squared': (TermAxis.SQUARED, 'squared: half the mean over the elements')
    }

    def compare(
        self, rows_S: Tensor, rows_T: Tensor, feature_T: Tensor, **_: Tensor | None
    ) -> Tensor:
        """Return half the mean squared difference of the rows, a scalar."""
        values = (rows_S - rows_T).square().mean(-1) / 2
        self.log_terms(squared=values)
        return self.mean(values)
