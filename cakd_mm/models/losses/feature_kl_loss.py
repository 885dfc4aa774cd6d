"""Plain KL between features, the control without clusters."""

from typing import Any

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from ..checks import check_number
from ..term_axis import TermAxis
from .feature_loss import FeatureLoss
from .functional import decoupled_kl


@MODELS.register_module()
class FeatureKLLoss(FeatureLoss):
    r"""``tau**2 * KL(softmax(preds_T / tau) || softmax(preds_S / tau))`` per row.

    It is :class:`CAKDFeatureLoss` without clusters, and the control against which a
    gain of the clusters has to be measured.

    Args:
        tau (float): Temperature that divides the feature. Defaults to 4.0.
        **kwargs: As in :class:`FeatureLoss`.

    Raises:
        ValueError: ``tau`` or another setting is out of range.
    """

    term_labels = {'kl': (TermAxis.DIVERGENCE, 'KL: undivided')}

    def __init__(self, tau: float = 4.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_number(self, 'tau', tau, positive=True)
        self.tau = tau

    def compare(
        self, rows_S: Tensor, rows_T: Tensor, feature_T: Tensor, **_: Tensor | None
    ) -> Tensor:
        """Return the mean divergence of the rows, a scalar."""
        # SCD is the plain KL if all elements are strong.
        everything = torch.ones_like(rows_T, dtype=torch.bool)
        values = self.tau**2 * decoupled_kl(rows_S, rows_T, everything, self.tau).scd
        self.log_terms(kl=values)
        return self.mean(values)
