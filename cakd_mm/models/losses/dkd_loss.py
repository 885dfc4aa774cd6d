"""DKD between class logits."""

from collections.abc import Mapping

from mmrazor.registry import MODELS
from torch import Tensor

from ..checks import check_number, class_indices
from ..term_axis import TermAxis
from .functional import cluster_terms, single_label_kl_and_terms
from .logit_loss import LogitLoss


@MODELS.register_module()
class DecoupledKDLoss(LogitLoss):
    r"""DKD between the class logits of student and teacher.

    "Decoupled Knowledge Distillation", arXiv 2203.08679, Eq. 7. TCKD is the
    divergence between the label and all other classes together, NCKD the one among
    the other classes,

    .. math:: L = \tau^2 \, mean(\alpha TCKD + \beta NCKD)

    with the mean over the samples of the batch. It is :class:`CAKDLogitLoss` with
    ``gamma=beta`` and one label per sample. MMRazor's ``DKDLoss`` computes the same
    formula from probabilities. It becomes inf or nan where a probability underflows,
    counts the label among the other classes where it leads by 1000 ``tau``, lets a
    gradient through to the teacher, and sums over samples for ``reduction='mean'``.

    ``terms`` holds the last step's ``tckd`` and ``nckd``, with ``tau**2`` and no
    weight, and ``target_mass``, the teacher's probability of the label at ``tau``.

    Args:
        tau (float): Temperature that divides the logits. Defaults to 4.0.
        alpha (float): Weight of TCKD. Defaults to 1.0.
        beta (float): Weight of NCKD. Defaults to 8.0.
        loss_weight (float): Factor of the whole loss. Defaults to 1.0.
        standardize (bool): Logit standardisation, see :class:`LogitLoss`. Defaults to
            False.

    Raises:
        ValueError: a number is out of range.
    """

    mean_of_rows = True
    one_class = True
    term_labels = {
        'tckd': (TermAxis.DIVERGENCE, 'TCKD: of the label from all other classes'),
        'nckd': (TermAxis.DIVERGENCE, 'NCKD: among the other classes'),
        'target_mass': (
            TermAxis.SHARE,
            "target_mass: teacher's probability of the label, at τ",
        ),
    }

    def __init__(
        self,
        tau: float = 4.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        loss_weight: float = 1.0,
        standardize: bool = False,
    ) -> None:
        super().__init__(loss_weight, standardize)
        check_number(self, 'tau', tau, positive=True)
        check_number(self, 'alpha', alpha)
        check_number(self, 'beta', beta)
        self.tau = tau
        self.alpha = alpha
        self.beta = beta

    def forward(self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor) -> Tensor:
        """Return the loss, a float32 (or float64) scalar.

        Args:
            preds_S (Tensor): The student's logits, (N, C).
            preds_T (Tensor): The teacher's logits, (N, C); get no gradient.
            gt_labels (Tensor): Class indices, (N,), or label scores, (N, C). The
                highest score gives the class (mixup, CutMix).

        Raises:
            TypeError: logits or class indices have the wrong dtype.
            ValueError: shapes do not fit, labels are not classes, or a row of
                scores marks several with 1; see :func:`class_indices`.
        """
        preds_S, preds_T = self.scores(preds_S, preds_T)
        labels = class_indices(gt_labels, preds_S)
        scale = self.loss_weight * self.tau**2
        loss, divergences = single_label_kl_and_terms(
            preds_S, preds_T, labels, self.tau, scale * self.alpha, scale * self.beta
        )
        self._own_rows = divergences.rows()
        return loss

    def terms_of(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return means, those of divergences with ``tau**2``."""
        terms = cluster_terms(rows, self.tau**2)
        terms.pop('scd', None)  # of one class, and therefore 0
        names = dict(bcd='tckd', wcd='nckd', strong_mass='target_mass')
        return {names.get(name, name): value for name, value in terms.items()}
