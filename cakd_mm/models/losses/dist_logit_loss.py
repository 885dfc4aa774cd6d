"""DIST between class logits."""

from mmrazor.models.losses.dist_loss import inter_class_relation, intra_class_relation
from mmrazor.registry import MODELS
from torch import Tensor

from ..checks import check_number
from ..term_axis import TermAxis
from .logit_loss import LogitLoss


@MODELS.register_module()
class DISTLogitLoss(LogitLoss):
    r"""DIST between the class logits of student and teacher.

    "Knowledge Distillation from A Stronger Teacher", arXiv 2205.10536, Eq. 8-10. With
    the probabilities of both nets at :math:`\tau` as matrices (N, C),

    .. math:: L = \tau^2 \, (w_{inter} \, (1 - \rho_{rows}) +
              w_{intra} \, (1 - \rho_{columns}))

    where :math:`\rho_{rows}` is the mean of Pearson's correlations of the classes of
    each sample, and :math:`\rho_{columns}` that of the samples of each class. The
    correlations are MMRazor's, as in its ``DISTLoss``, which cannot standardise logits
    and has no terms. They have 1e-8 in the denominator, so that equal nets have a small
    loss. Each rank compares its own images only: the loss depends on how many ranks a
    batch is dealt out to. An empty batch has the loss 0.

    ``terms`` holds the last step's ``inter`` and ``intra``, which are
    :math:`1 - \rho_{rows}` and :math:`1 - \rho_{columns}`, without ``tau**2``.

    Args:
        inter_loss_weight (float): Weight of the rows. Defaults to 1.0.
        intra_loss_weight (float): Weight of the columns. Defaults to 1.0.
        tau (float): Temperature that divides the logits. Defaults to 1.0.
        loss_weight (float): Factor of the whole loss. Defaults to 1.0.
        standardize (bool): Logit standardisation, see :class:`LogitLoss`. Defaults to
            False.

    Raises:
        ValueError: a number is out of range.
    """

    term_labels = {
        'inter': (TermAxis.DISTANCE, 'inter: of the classes of a sample'),
        'intra': (TermAxis.DISTANCE, 'intra: of the samples of a class'),
    }

    def __init__(
        self,
        inter_loss_weight: float = 1.0,
        intra_loss_weight: float = 1.0,
        tau: float = 1.0,
        loss_weight: float = 1.0,
        standardize: bool = False,
    ) -> None:
        super().__init__(loss_weight, standardize)
        check_number(self, 'inter_loss_weight', inter_loss_weight)
        check_number(self, 'intra_loss_weight', intra_loss_weight)
        check_number(self, 'tau', tau, positive=True)
        self.inter_loss_weight = inter_loss_weight
        self.intra_loss_weight = intra_loss_weight
        self.tau = tau

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the loss, a float32 (or float64) scalar.

        Args:
            preds_S (Tensor): The student's logits, (N, C).
            preds_T (Tensor): The teacher's logits, (N, C); get no gradient.

        Raises:
            TypeError: logits are no float tensors.
            ValueError: they are not (N, C), or the shapes differ.
        """
        preds_S, preds_T = self.scores(preds_S, preds_T)
        if len(preds_S):
            share_S, share_T = ((z / self.tau).softmax(1) for z in (preds_S, preds_T))
            inter = inter_class_relation(share_S, share_T)
            intra = intra_class_relation(share_S, share_T)
        else:  # because the mean of no correlation is nan
            inter = intra = preds_S.sum()
        self.log_terms(inter=inter, intra=intra)
        loss = self.inter_loss_weight * inter + self.intra_loss_weight * intra
        return self.loss_weight * self.tau**2 * loss
