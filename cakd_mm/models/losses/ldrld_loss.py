"""LDRLD between class logits."""

from collections.abc import Mapping

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from ..checks import check_number, is_count
from ..term_axis import TermAxis
from .functional import batch_mean, cluster_terms, ranked_pairs_kl, weighted_kl
from .functional.ldrld import likeliest_classes
from .logit_loss import LogitLoss


@MODELS.register_module()
class LDRLDLoss(LogitLoss):
    r"""LDRLD between the class logits of student and teacher.

    "Local Dense Logit Relations for Enhanced Knowledge Distillation", arXiv
    2507.15911. The student ranks the classes. Its K likeliest are compared in pairs,
    each pair by itself, and all together; so are the remaining classes. With P =
    K (K - 1) / 2 pairs, and ``pairs`` the sum of :func:`ranked_pairs_kl`,

    .. math:: L = \tau^2 \, mean\left(\alpha \frac{pairs + top}{P + 1}
              + \beta \, remaining\right)

    with the mean over the samples of the batch. ``top`` is the divergence of the
    softmax over the K classes alone, and ``remaining`` that over all other classes
    alone. Which classes these are has no gradient. The loss needs no labels.

    ``terms`` holds the last step's ``pairs``, ``top`` and ``remaining``, with
    ``tau**2`` and no weight but that of each pair, and ``top_mass``, the teacher's
    probability of the K classes together at ``tau``.

    Args:
        tau (float): Temperature that divides the logits. Defaults to 4.0.
        alpha (float): Weight of the likeliest classes. Defaults to 10.5.
        beta (float): Weight of the remaining classes. Defaults to 7.0.
        top_classes (int): K, how many classes are the likeliest ones, from 2 to the
            number of classes. Defaults to 7.
        decay (float): How fast the weight of a pair falls with the sum of its ranks.
            Defaults to 0.05.
        loss_weight (float): Factor of the whole loss. Defaults to 1.0.
        standardize (bool): Logit standardisation, see :class:`LogitLoss`. Defaults to
            False.

    Raises:
        ValueError: a number is out of range.
    """

    mean_of_rows = True
    term_labels = {
        'pairs': (TermAxis.DIVERGENCE, 'pairs: of the likeliest classes, weighted sum'),
        'top': (TermAxis.DIVERGENCE, 'top: among the likeliest classes'),
        'remaining': (TermAxis.DIVERGENCE, 'remaining: among the less likely classes'),
        'top_mass': (
            TermAxis.SHARE,
            "top_mass: teacher's probability of the student's likeliest classes, at τ",
        ),
    }

    def __init__(
        self,
        tau: float = 4.0,
        alpha: float = 10.5,
        beta: float = 7.0,
        top_classes: int = 7,
        decay: float = 0.05,
        loss_weight: float = 1.0,
        standardize: bool = False,
    ) -> None:
        super().__init__(loss_weight, standardize)
        check_number(self, 'tau', tau, positive=True)
        check_number(self, 'alpha', alpha)
        check_number(self, 'beta', beta)
        check_number(self, 'decay', decay)
        if not is_count(top_classes, least=2):
            raise ValueError(
                f'top_classes must be an integer of at least 2, got {top_classes!r}: '
                f'set top_classes in the config of {type(self).__name__}.'
            )
        self.tau = tau
        self.alpha = alpha
        self.beta = beta
        self.top_classes = top_classes
        self.decay = decay

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the loss, a float32 (or float64) scalar.

        Args:
            preds_S (Tensor): The student's logits, (N, C).
            preds_T (Tensor): The teacher's logits, (N, C); get no gradient.

        Raises:
            TypeError: logits are no float tensors.
            ValueError: shapes do not fit, or C is less than ``top_classes``.
        """
        preds_S, preds_T = self.scores(preds_S, preds_T)
        ranked = likeliest_classes(preds_S, self.top_classes)
        is_top = torch.zeros_like(preds_S, dtype=torch.bool).scatter_(1, ranked, True)
        compared = 1 + self.top_classes * (self.top_classes - 1) // 2
        scale = self.loss_weight * self.tau**2
        local = scale * self.alpha / compared
        loss, divergences = weighted_kl(
            preds_S, preds_T, is_top, self.tau, 0.0, local, scale * self.beta
        )
        pairs = ranked_pairs_kl(preds_S, preds_T, ranked, self.tau, self.decay)
        self._own_rows = divergences.rows()
        self.log_terms(pairs=self.tau**2 * pairs)
        return loss + local * batch_mean(pairs)

    def terms_of(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return means, those of divergences with ``tau**2``."""
        terms = cluster_terms(rows, self.tau**2)
        terms.pop('bcd', None)  # because the loss does not compare the two groups
        names = dict(scd='top', wcd='remaining', strong_mass='top_mass')
        return {names.get(name, name): value for name, value in terms.items()}
