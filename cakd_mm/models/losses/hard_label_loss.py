"""Distillation by the teacher's decisions alone."""

import torch.nn.functional as F
from mmrazor.registry import MODELS
from torch import Tensor

from ..term_axis import TermAxis
from .functional import batch_mean
from .logit_loss import LogitLoss


@MODELS.register_module()
class HardLabelLoss(LogitLoss):
    r"""Cross entropy of the student with the class that the teacher decides for.

    "Training data-efficient image transformers & distillation through attention"
    (DeiT), arXiv 2012.12877, Eq. 3, with the mean over the samples of the batch:

    .. math:: L = -mean(\log softmax(z_S)_{argmax(z_T)})

    L is not 0 for equal nets, because it is a cross entropy. ``terms`` holds the last
    step's ``entropy``, which is L without its weight, and ``agreement``, the share of
    samples for which the student decides as the teacher does.

    Args:
        loss_weight (float): Factor of the whole loss. Defaults to 1.0.
        standardize (bool): Logit standardisation, see :class:`LogitLoss`. Defaults to
            False.

    Raises:
        ValueError: ``loss_weight`` is out of range.
    """

    mean_of_rows = True
    term_labels = {
        'entropy': (TermAxis.CROSS_ENTROPY, "entropy: with the teacher's class"),
        'agreement': (TermAxis.SHARE, "agreement: student's class is the teacher's"),
    }

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the loss, a float32 (or float64) scalar.

        Args:
            preds_S (Tensor): The student's logits, (N, C).
            preds_T (Tensor): The teacher's logits, (N, C); get no gradient.

        Raises:
            TypeError: logits are no float tensors.
            ValueError: shapes do not fit.
        """
        preds_S, preds_T = self.scores(preds_S, preds_T)
        label = preds_T.argmax(1)
        rows = F.cross_entropy(preds_S, label, reduction='none')
        agrees = preds_S.argmax(1) == label
        self.log_terms(entropy=rows, agreement=agrees.to(rows.dtype))
        return self.loss_weight * batch_mean(rows)
