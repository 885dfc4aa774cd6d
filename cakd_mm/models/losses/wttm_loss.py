"""TTM and WTTM, which soften the teacher alone, between class logits."""

from mmrazor.registry import MODELS
from torch import Tensor

from ..checks import check_number
from ..term_axis import TermAxis
from .functional import batch_mean
from .functional.kd import softened_kl
from .functional.wttm import power_sum
from .logit_loss import LogitLoss


@MODELS.register_module()
class WTTMLoss(LogitLoss):
    r"""WTTM between the class logits of student and teacher.

    "Knowledge Distillation Based on Transformed Teacher Matching", arXiv 2402.11148.
    The temperature divides the teacher's logits alone, which raises its probabilities
    p to the power of :math:`\gamma = 1 / \tau` and makes them add up to 1 again. A
    sample counts the more, the softer its teacher is:

    .. math:: L = mean\left(\sum_i (p_i^T)^{1 / \tau} \;
              KL(softmax(z_T / \tau) \,||\, softmax(z_S))\right)

    with the mean over the samples of the batch. TTM is the same without the sum. There
    is no factor ``tau**2``, because the student's slope is not divided by ``tau``. L
    is not 0 for equal nets, unless ``tau`` is 1.

    ``terms`` holds the last step's ``softened_kl``, the divergence without the sum, and
    ``power_sum``, the sum, which is from 1 to C for ``tau`` from 1 on.

    Args:
        tau (float): Temperature of the teacher, 1 / gamma of the paper. Defaults to
            5.0.
        weighted (bool): Whether the sum is a factor: True for WTTM, False for TTM.
            Defaults to True.
        loss_weight (float): Factor of the whole loss. Defaults to 1.0.
        standardize (bool): Logit standardisation, see :class:`LogitLoss`. Defaults to
            False.

    Raises:
        ValueError: a number is out of range.
        TypeError: ``weighted`` is no bool.
    """

    mean_of_rows = True
    term_labels = {
        'softened_kl': (
            TermAxis.UNSCALED_DIVERGENCE,
            'softened_kl: from the softened teacher',
        ),
        'power_sum': (
            TermAxis.FACTOR,
            "power_sum: of the teacher's probabilities to the power of 1/τ",
        ),
    }

    def __init__(
        self,
        tau: float = 5.0,
        weighted: bool = True,
        loss_weight: float = 1.0,
        standardize: bool = False,
    ) -> None:
        super().__init__(loss_weight, standardize)
        check_number(self, 'tau', tau, positive=True)
        if not isinstance(weighted, bool):
            raise TypeError(
                f'weighted must be True (WTTM) or False (TTM), got {weighted!r}: set '
                f'weighted in the config of {type(self).__name__}.'
            )
        self.tau = tau
        self.weighted = weighted

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
        kl = softened_kl(preds_S, preds_T / self.tau)
        weight = power_sum(preds_T, self.tau)
        self.log_terms(softened_kl=kl, power_sum=weight)
        return self.loss_weight * batch_mean(weight * kl if self.weighted else kl)
