"""KD between the logits of nets that score each class by a sigmoid."""

from mmrazor.registry import MODELS
from torch import Tensor

from ..checks import check_number
from ..term_axis import TermAxis
from .base import DistillLoss
from .functional import batch_mean, binary_kl


@MODELS.register_module()
class SigmoidKDLoss(DistillLoss):
    r"""KD for images that may have several labels, or none.

    A softmax makes the classes of an image compete, and does not see how high its
    logits are as a whole. The nets of multi-label tasks (mmpretrain's
    ``MultiLabelLinearClsHead``, or any loss with ``use_sigmoid``) decide about each
    class by itself, and so does this loss:

    .. math:: L = \tau^2 \, mean_n \sum_c KL(sigmoid(z_T / \tau) || sigmoid(z_S / \tau))

    The sum over the classes and the mean over the batch are those of mmpretrain's
    binary cross entropy. At ``tau=1`` it is the logits' part of "Multi-Label Knowledge
    Distillation", arXiv 2308.06453. It needs no labels. ``terms`` holds the last step's
    ``present`` and ``absent``, the parts of L of classes that the teacher gives a
    probability above 1/2, and of all others.

    It is no :class:`LogitLoss` and cannot be standardised, because a sigmoid needs the
    level of the logits: without their mean, every image would have present classes.

    Args:
        tau (float): Temperature that divides the logits. Defaults to 1.0.
        loss_weight (float): Factor of the whole loss. Defaults to 1.0.

    Raises:
        ValueError: a number is out of range.
    """

    mean_of_rows = True
    term_labels = {
        'present': (TermAxis.DIVERGENCE, 'present: classes that the teacher sees'),
        'absent': (TermAxis.DIVERGENCE, 'absent: all other classes'),
    }

    def __init__(self, tau: float = 1.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        check_number(self, 'tau', tau, positive=True)
        self.tau = tau

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the loss, a float32 (or float64) scalar.

        Args:
            preds_S (Tensor): The student's logits, (N, C).
            preds_T (Tensor): The teacher's logits, (N, C); get no gradient.

        Raises:
            TypeError: logits are no float tensors.
            ValueError: shapes do not fit.
        """
        rows = self.tau**2 * binary_kl(preds_S, preds_T, self.tau)
        present = (preds_T > 0).to(rows.dtype) * rows.detach()
        absent = rows.detach() - present
        self.log_terms(present=present.sum(1), absent=absent.sum(1))
        return self.loss_weight * batch_mean(rows.sum(1))
