"""Squared error between features: the control without a distribution."""

from mmrazor.registry import MODELS
from torch import Tensor

from .feature_loss import FeatureLoss


@MODELS.register_module()
class FeatureSquaredLoss(FeatureLoss):
    """Half the mean squared difference of every row.

    The factor makes it the limit of ``tau**2 * KL`` for a high temperature, up
    to the shift of a row that softmax does not see. Args and errors are those of
    :class:`FeatureLoss`.
    """

    def compare(
        self, rows_S: Tensor, rows_T: Tensor, raw: Tensor, **context: Tensor | None
    ) -> Tensor:
        """Return half the mean squared difference of the rows, a scalar."""
        values = (rows_S - rows_T).square().mean(-1) / 2
        self.seen = {'squared': values.detach()}
        return self.mean(values)
