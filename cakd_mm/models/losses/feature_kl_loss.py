"""Plain KL between features: the control without clusters."""

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

    What :class:`CAKDFeatureLoss` is without its clusters: any gain of theirs is
    to be measured against this loss.

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
        self,
        rows_S: Tensor,
        rows_T: Tensor,
        feature_T: Tensor,
        *,
        gt_labels: Tensor | None = None,
        head_weight: Tensor | None = None,
        head_bias: Tensor | None = None,
    ) -> Tensor:
        """Return the mean divergence of the rows, a scalar."""
        # With everything in one cluster the decomposition is the plain KL.
        everything = torch.ones_like(rows_T, dtype=torch.bool)
        values = self.tau**2 * decoupled_kl(rows_S, rows_T, everything, self.tau).scd
        self.log_terms(kl=values)
        return self.mean(values)
