"""KD between class logits."""

from mmrazor.registry import MODELS
from torch import Tensor

from ..checks import check_number
from ..term_axis import TermAxis
from .functional import batch_mean
from .functional.kd import softened_kl
from .logit_loss import LogitLoss


@MODELS.register_module()
class KDLoss(LogitLoss):
    r"""KD between the class logits of student and teacher.

    "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, with the mean
    over the samples of the batch:

    .. math:: L = \tau^2 \, mean(KL(softmax(z_T / \tau) \,||\, softmax(z_S / \tau)))

    MMRazor's ``KLDivergence`` computes the same number. It cannot standardise logits
    and has no terms, but a gradient to the teacher if asked to.

    ``terms`` holds the last step's ``kl``, which is L without its weight.

    Args:
        tau (float): Temperature that divides the logits. Defaults to 4.0.
        loss_weight (float): Factor of the whole loss. Defaults to 1.0.
        standardize (bool): Logit standardisation, see :class:`LogitLoss`. Defaults to
            False.

    Raises:
        ValueError: a number is out of range.
    """

    mean_of_rows = True
    term_labels = {'kl': (TermAxis.DIVERGENCE, 'KL: undivided')}

    def __init__(
        self, tau: float = 4.0, loss_weight: float = 1.0, standardize: bool = False
    ) -> None:
        super().__init__(loss_weight, standardize)
        check_number(self, 'tau', tau, positive=True)
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
        kl = self.tau**2 * softened_kl(preds_S, preds_T, self.tau)
        self.log_terms(kl=kl)
        return self.loss_weight * batch_mean(kl)
