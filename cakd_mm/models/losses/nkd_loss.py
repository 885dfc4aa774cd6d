"""NKD between class logits."""

from mmrazor.registry import MODELS
from torch import Tensor

from ..checks import check_classes, check_number, class_indices
from ..term_axis import TermAxis
from .functional import batch_mean, normalized_kd
from .logit_loss import LogitLoss


@MODELS.register_module()
class NKDLoss(LogitLoss):
    r"""NKD between the class logits of student and teacher.

    "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach
    with Normalized Loss and Customized Soft Labels", arXiv 2303.13005.
    ``target`` is the label's cross entropy times the teacher's probability of it, at
    temperature 1; ``others`` is the cross entropy among the other classes. See
    :func:`normalized_kd`.

    .. math:: L = mean(target + \gamma \, \tau^2 \, others)

    L is not 0 for equal nets, because it is made of cross entropies. The mean is over
    the samples of the batch. ``terms`` holds the last step's ``target`` and
    ``others``, the latter with ``tau**2`` and without its weight.

    Args:
        tau (float): Temperature among the other classes. Defaults to 1.0.
        gamma (float): Weight of the other classes. Defaults to 1.5.
        loss_weight (float): Factor of the whole loss. Defaults to 1.0.
        standardize (bool): Logit standardisation, see :class:`LogitLoss`. Defaults to
            False.

    Raises:
        ValueError: a number is out of range.
    """

    mean_of_rows = True
    one_class = True
    term_labels = {
        'target': (
            TermAxis.CROSS_ENTROPY,
            "target: of the label, times the teacher's probability",
        ),
        'others': (TermAxis.CROSS_ENTROPY, 'others: among the other classes, × τ²'),
    }

    def __init__(
        self,
        tau: float = 1.0,
        gamma: float = 1.5,
        loss_weight: float = 1.0,
        standardize: bool = False,
    ) -> None:
        super().__init__(loss_weight, standardize)
        check_number(self, 'tau', tau, positive=True)
        check_number(self, 'gamma', gamma)
        self.tau = tau
        self.gamma = gamma

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
        check_classes(labels, preds_S)
        target, others = normalized_kd(preds_S, preds_T, labels, self.tau)
        others = self.tau**2 * others
        self.log_terms(target=target, others=others)
        return self.loss_weight * batch_mean(target + self.gamma * others)
