"""Squared error between features: the control without a distribution."""

from mmrazor.registry import MODELS
from torch import Tensor

from ..term_axis import TermAxis
from .feature_loss import FeatureLoss


@MODELS.register_module()
class FeatureSquaredLoss(FeatureLoss):
    """Half the mean squared difference of every row.

    The factor makes it the limit of ``tau**2 * KL`` for a high temperature, up
    to the shift of a row that softmax does not see. Args and errors are those of
    :class:`FeatureLoss`.
    """

    term_labels = {
        'squared': (TermAxis.SQUARED, 'squared: half the mean over the elements')
    }

    def compare(
        self,
        rows_S: Tensor,
        rows_T: Tensor,
        feature_T: Tensor,
        *,
        gt_labels: Tensor | None = None,
        head_weight: Tensor | None = None,
        head_bias: Tensor | None = None,
    ) -> Tensor:
        """Return half the mean squared difference of the rows, a scalar."""
        values = (rows_S - rows_T).square().mean(-1) / 2
        self.log_terms(squared=values)
        return self.mean(values)
