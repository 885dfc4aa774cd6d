"""KD between the logits of nets that score each class by a sigmoid."""

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from ...utils.errors import describe
from ..checks import check_number, class_indices, index_outside
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
    Distillation", arXiv 2308.06453. It needs no labels.

    This is also the binary form of CAKD (arXiv 2410.14741). The classes are
    independent, so that the divergence is exactly the sum over a strong cluster S of
    classes and that over all others, W:

    .. math:: L = \tau^2 \, mean_n (\beta \sum_{c \in S} KL_c + \gamma \sum_{c \in W}
              KL_c)

    BCD has no counterpart, because there is no probability that S and W share out
    between them. S are the labelled classes, if ``gt_labels`` are fed, and otherwise
    those that the teacher gives a probability above 1/2. A background, an anchor of a
    detector without an object say, has no strong class. ``terms`` holds the last step's
    ``present`` and ``absent``, both sums with ``tau**2`` and no weight.

    It is no :class:`LogitLoss` and cannot be standardised, because a sigmoid needs the
    level of the logits: without their mean, every image would have present classes.

    Args:
        tau (float): Temperature that divides the logits. Defaults to 1.0.
        loss_weight (float): Factor of the whole loss. Defaults to 1.0.
        beta (float): Weight of the strong classes. Defaults to 1.0.
        gamma (float): Weight of all other classes. Defaults to 1.0, which is KD if
            ``beta`` is 1.0 as well.

    Raises:
        ValueError: a number is out of range.
    """

    mean_of_rows = True
    term_labels = {
        'present': (
            TermAxis.DIVERGENCE,
            'present: labelled classes, or those that the teacher sees',
        ),
        'absent': (TermAxis.DIVERGENCE, 'absent: all other classes'),
    }

    def __init__(
        self,
        tau: float = 1.0,
        loss_weight: float = 1.0,
        beta: float = 1.0,
        gamma: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        check_number(self, 'tau', tau, positive=True)
        check_number(self, 'beta', beta)
        check_number(self, 'gamma', gamma)
        self.tau = tau
        self.beta = beta
        self.gamma = gamma

    def forward(
        self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor | None = None
    ) -> Tensor:
        """Return the loss, a float32 (or float64) scalar.

        Args:
            preds_S (Tensor): The student's logits, (N, C).
            preds_T (Tensor): The teacher's logits, (N, C); get no gradient.
            gt_labels (Tensor, optional): Class indices, (N,), of which C is the
                background; or rows (N, C) of int, bool or float, in which a class with
                a value above 0 is a label.

        Raises:
            TypeError: logits are no float tensors, or class indices no integers.
            ValueError: shapes do not fit, or a label is no class.
        """
        rows = self.tau**2 * binary_kl(preds_S, preds_T, self.tau)
        strong = _strong(gt_labels, preds_T).to(rows.dtype)
        present = strong * rows
        absent = rows - present
        self.log_terms(present=present.sum(1), absent=absent.sum(1))
        weighted = self.beta * present + self.gamma * absent
        return self.loss_weight * batch_mean(weighted.sum(1))


def _strong(gt_labels: Tensor | None, preds_T: Tensor) -> Tensor:
    """Return which classes are strong, bool (N, C)."""
    if gt_labels is None:
        return preds_T > 0
    if gt_labels.dim() == 2:
        if gt_labels.shape != preds_T.shape:
            raise ValueError(
                f'gt_labels has shape {tuple(gt_labels.shape)} for logits of shape '
                f'{tuple(preds_T.shape)}: rows of labels need one per class; set '
                'num_classes of the heads alike, or feed no labels.'
            )
        return gt_labels > 0
    labels, classes = class_indices(gt_labels, preds_T), preds_T.shape[1]
    outside = index_outside(labels, classes + 1)
    if outside is not None:
        problem = f'There are {classes} classes, and {classes} is the background.'
        remedy = 'Set num_classes of both heads to that of the dataset, or leave such '
        remedy += 'places out by ignore_index of a DenseLoss.'
        raise ValueError(describe('gt_labels', outside, problem, remedy))
    return labels.unsqueeze(1) == torch.arange(classes, device=labels.device)
