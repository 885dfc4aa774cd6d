"""Plain KL between features: the control without clusters."""

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from .checks import check_number
from .feature_loss import FeatureLoss
from .functional import decoupled_kl


@MODELS.register_module()
class FeatureKLLoss(FeatureLoss):
    r"""``tau**2 * KL(softmax(preds_T / tau) || softmax(preds_S / tau))`` per row.

    What :class:`CAKDFeatureLoss` is without its clusters: any gain of theirs is
    to be measured against this loss.

    Args:
        tau (float): Temperature that divides the feature. Defaults to 4.0.
        **kwargs: As in :class:`FeatureLoss`.

    Raises:
        ValueError: ``tau`` or another setting is out of range.
    """

    def __init__(self, tau: float = 4.0, **kwargs) -> None:
        super().__init__(**kwargs)
        check_number(self, 'tau', tau, positive=True)
        self.tau = tau

    def compare(
        self, rows_S: Tensor, rows_T: Tensor, raw: Tensor, **context: Tensor | None
    ) -> Tensor:
        """Return the mean divergence of the rows, a scalar."""
        # With everything in one cluster the decomposition is the plain KL.
        everything = torch.ones_like(rows_T, dtype=torch.bool)
        values = self.tau**2 * decoupled_kl(rows_S, rows_T, everything, self.tau).scd
        self.seen = {'kl': values.detach()}
        return self.mean(values)

    def extra_repr(self) -> str:
        """Show the settings in a printed model."""
        return f'tau={self.tau}, {super().extra_repr()}'
